"""Preference methods of the experiment, each with its baseline, trained by its reference trainer.

Learning rates are each method's best of 1e-4, 3e-4, 1e-3 and 3e-3 on all pairs, with a seed outside the experiment's
(`tune.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from benchmarks.experiments.credit import TrainedResponse, responses_of_pairs
from benchmarks.experiments.measure import credit, measure_answers, measure_policy
from benchmarks.experiments.steps import Step, task_of
from benchmarks.experiments.tasks import Task
from benchmarks.experiments.timing import timing
from benchmarks.experiments.workspace import Workspace
from examples.capitals.training import train_and_save
from segkernel.training import (
    AlignDistilConfig,
    AlignDistilTrainer,
    ASRDPOConfig,
    ASRDPOTrainer,
    DPOConfig,
    DPOTrainer,
)
from segkernel.training.methods import asr_dpo as asr_dpo_module
from segkernel.training.models import load_scoring_model

ASR_BASELINE, ASR_DELTA = "0", 0.5


@dataclass
class TrainedPolicy:
    """A trained policy, its training responses with their masks, and the seconds spent on segments and masks."""

    model: PreTrainedModel
    responses: list[TrainedResponse]
    segmenting: float = 0.0


@dataclass(frozen=True)
class Method(Step):
    """A step that trains a policy. `baseline` names the method it is compared with."""

    baseline: str = "no training"


def training(train: Callable[[Workspace, Task], TrainedPolicy]) -> Callable[[Workspace, Task], dict[str, Any]]:
    """Run function of a method: train, then measure."""

    def run(work: Workspace, task: Task) -> dict[str, Any]:
        began = time.perf_counter()
        trained = train(work, task)
        seconds = time.perf_counter() - began
        return {
            **measure_policy(work, trained.model),
            **credit(trained.responses),
            "seconds": seconds,
            "segmenting": trained.segmenting / seconds,
        }

    return run


def start(work: Workspace, task: Task) -> dict[str, Any]:
    return measure_answers(work, work.policy())


def dpo(work: Workspace, task: Task) -> TrainedPolicy:
    return _dpo(work, task)


def reverse_dpo(work: Workspace, task: Task) -> TrainedPolicy:
    return _dpo(work, task, reverse=True)


def _dpo(work: Workspace, task: Task, **options: Any) -> TrainedPolicy:
    pairs = work.policy_pairs(task.pairs)
    config = DPOConfig(beta=work.settings.task.beta, **options, **work.policy_options(task))
    rows = [pair.row(work.tokenizer) for pair in pairs]
    model = work.policy()
    train_and_save(DPOTrainer(model, config, rows, processing_class=work.tokenizer))
    return TrainedPolicy(model, responses_of_pairs(work.tokenizer, rows, pairs))


def asr_dpo(work: Workspace, task: Task) -> TrainedPolicy:
    pairs = work.policy_pairs(task.pairs)
    options: dict[str, Any] = {"beta": work.settings.task.beta, "baseline": ASR_BASELINE, "delta": ASR_DELTA}
    model = work.policy()
    scorer = load_scoring_model(str(work.reward_folder(task)), work.tokenizer)
    with timing((asr_dpo_module, "with_token_rewards"), (asr_dpo_module, "with_masks")) as segmenting:
        trainer = ASRDPOTrainer(
            model,
            ASRDPOConfig(**options, **work.policy_options(task)),
            [pair.row(work.tokenizer) for pair in pairs],
            processing_class=work.tokenizer,
            reward_model=scorer,
        )
    train_and_save(trainer)
    responses = responses_of_pairs(work.tokenizer, trainer.train_dataset, pairs)
    return TrainedPolicy(model, responses, segmenting.seconds)


def aligndistil(work: Workspace, task: Task) -> TrainedPolicy:
    pairs = work.policy_pairs(task.pairs)
    rows = [pair.row(work.tokenizer) for pair in pairs]
    normal, reverse = (work.policy(task_of(step, work.seed, {"pairs": task.pairs})) for step in (DPO, REVERSE_DPO))
    config = AlignDistilConfig(beta=work.settings.task.beta, **work.policy_options(task))
    model = work.policy()
    trainer = AlignDistilTrainer(
        model, config, rows, processing_class=work.tokenizer, dpo_model=normal, reverse_dpo_model=reverse
    )
    train_and_save(trainer)
    # The loss reads only the chosen responses, without a mask.
    return TrainedPolicy(model, responses_of_pairs(work.tokenizer, rows, pairs)[::2])


START = Method("no training", start, needs={"pairs": ""})
DPO = Method("dpo", training(dpo), uses=("pairs",), needs={"pairs": ""}, learning_rate=1e-3)
REVERSE_DPO = Method("reverse dpo", training(reverse_dpo), uses=("pairs",), needs={"pairs": ""}, learning_rate=1e-3)
ASR_DPO = Method(
    "asr-dpo",
    training(asr_dpo),
    uses=("pairs", "rewards"),
    needs={"pairs": "", "reward": "rewards"},
    learning_rate=1e-3,
    baseline="dpo",
)
ALIGNDISTIL = Method(
    "aligndistil",
    training(aligndistil),
    uses=("pairs",),
    needs={"dpo": "pairs", "reverse dpo": "pairs"},
    learning_rate=3e-4,
    baseline="dpo",
)

PREFERENCE_METHODS = [START, DPO, ASR_DPO, ALIGNDISTIL]
