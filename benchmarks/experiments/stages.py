"""Stages that methods share: start model, pairs, reward models."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import set_seed

from benchmarks.experiments.steps import Step
from benchmarks.experiments.tasks import Task
from benchmarks.experiments.workspace import Workspace
from examples.capitals.pairs import sample_pairs
from examples.capitals.training import (
    REWARD_LEARNING_RATE,
    train_and_save,
    train_reward_model,
    train_start,
    trainer_options,
)
from segkernel.training import SegmentRewardConfig, SegmentRewardTrainer
from segkernel.training.models import ModelArguments, load_reward_model

HELD_OUT_FOR_REWARD = 1000


def start(work: Workspace, task: Task) -> dict[str, Any]:
    train_start(work.model_folder(task), work.task_settings, work.tokenizer)
    return {}


def pairs(work: Workspace, task: Task) -> dict[str, Any]:
    """Sample pairs from the start model and rank them by the verifier, which weighs the starred part most."""
    settings, first = work.task_settings, 1000 * work.seed
    counts = {}
    for offset, (name, prompts) in enumerate((("training", settings.prompts), ("held-out", settings.held_out_prompts))):
        found = sample_pairs(work.policy(), work.tokenizer, prompts, parts=settings.parts, seed=first + offset)
        work.write_pairs(name, found)
        counts[name] = len(found)
    return {**counts, "adversarial": len(work.pairs("adversarial")), "held_out": len(work.adversarial_held_out())}


def reward(work: Workspace, task: Task) -> dict[str, Any]:
    """Train a reward model from preferences between whole answers only."""
    found = work.pairs(task.pairs)
    trainer = train_reward_model(
        work.model_folder(task),
        work.model_folder(Task(work.seed, "start")),
        work.task_settings,
        work.tokenizer,
        found,
        work.pairs("held out")[:HELD_OUT_FOR_REWARD],
    )
    return {"pairs": len(found), "accuracy": trainer.evaluate()["eval_accuracy"]}


def segment_reward(work: Workspace, task: Task, *, entropy_threshold: float) -> dict[str, Any]:
    """Train a segment reward model, read at the end of every segment, with the same budget."""
    settings, tokenizer = work.task_settings, work.tokenizer
    rows, held_out = ([pair.row(tokenizer) for pair in work.pairs(source)] for source in (task.pairs, "held out"))
    set_seed(settings.seed)
    options = trainer_options(
        settings, steps=settings.reward_steps, batch_size=settings.reward_batch_size, learning_rate=REWARD_LEARNING_RATE
    )
    trainer = SegmentRewardTrainer(
        load_reward_model(ModelArguments(model=str(work.model_folder(Task(work.seed, "start")))), tokenizer),
        SegmentRewardConfig(output_dir=str(work.model_folder(task)), entropy_threshold=entropy_threshold, **options),
        rows,
        held_out[:HELD_OUT_FOR_REWARD],
        tokenizer,
        ref_model=work.policy(),
    )
    train_and_save(trainer)
    metrics = trainer.evaluate()
    return {
        "pairs": len(rows),
        "accuracy": metrics["eval_accuracy"],
        "segments": (metrics["eval_segments/chosen"] + metrics["eval_segments/rejected"]) / 2,
    }


# The start model's entropy is at least 0.5 nats where a city begins and near 0 where a separator does.
CITY_ENTROPY = 0.3

STAGES = [
    Step("start", start),
    Step("pairs", pairs, needs={"start": ""}),
    Step("reward", reward, uses=("pairs",), needs={"pairs": ""}),
    Step(
        "segment reward", partial(segment_reward, entropy_threshold=CITY_ENTROPY), uses=("pairs",), needs={"pairs": ""}
    ),
    Step("token reward", partial(segment_reward, entropy_threshold=0.0), uses=("pairs",), needs={"pairs": ""}),
]
