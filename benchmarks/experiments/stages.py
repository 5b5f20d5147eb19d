"""The models and pairs that methods share: start model, pairs, reward models."""

from __future__ import annotations

from typing import Any

from benchmarks.experiments.tasks import Step, Task
from benchmarks.experiments.workspace import Workspace
from segkernel.demo.pairs import sample_pairs
from segkernel.demo.pipeline import train_reward_model, train_start

HELD_OUT_FOR_REWARD = 1000


def start(work: Workspace, task: Task) -> dict[str, Any]:
    train_start(work.model_folder(task), work.task_settings, work.tokenizer)
    return {}


def pairs(work: Workspace, task: Task) -> dict[str, Any]:
    """Sampled from the start model, judged by the verifier, which weighs the starred part most."""
    settings, first = work.task_settings, 1000 * work.seed
    counts = {}
    for offset, (name, prompts) in enumerate((("training", settings.prompts), ("held-out", settings.held_out_prompts))):
        found = sample_pairs(
            work.policy(),
            work.tokenizer,
            prompts,
            parts=settings.parts,
            seed=first + offset,
            description=name,
            key=True,
        )
        work.write_pairs(name, found)
        counts[name] = len(found)
    return {**counts, "adversarial": len(work.pairs("adversarial")), "held_out": len(work.adversarial_held_out())}


def reward(work: Workspace, task: Task) -> dict[str, Any]:
    """Learnt from which of two whole answers was preferred, and nothing else."""
    rows, held_out = ([pair.row(work.tokenizer) for pair in work.pairs(source)] for source in (task.pairs, "held out"))
    trainer = train_reward_model(
        work.model_folder(task),
        work.model_folder(Task(work.seed, "start")),
        work.task_settings,
        work.tokenizer,
        rows,
        held_out[:HELD_OUT_FOR_REWARD],
    )
    return {"pairs": len(rows), "accuracy": trainer.evaluate()["eval_accuracy"]}


STAGES = [
    Step("start", start),
    Step("pairs", pairs, needs={"start": ""}),
    Step("reward", reward, uses=("pairs",), needs={"pairs": ""}),
]
