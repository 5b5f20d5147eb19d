"""The methods, each with its baseline: one entry per method, trained from the same start by its reference trainer.

Learning rates are each method's best of 1e-4, 3e-4, 1e-3 and 3e-3 on all pairs, from a seed that is not among the
experiment's (`tune.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from benchmarks.experiments.measure import credit, measure_answers, measure_policy, timing
from benchmarks.experiments.tasks import Step, Task, task_of
from benchmarks.experiments.workspace import Workspace
from examples.capitals.measure import TrainedResponse, responses_of_pairs
from examples.capitals.pipeline import train_quietly
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
class Trained:
    """A policy, the responses it was trained on under their masks, and the seconds that making segments took."""

    model: PreTrainedModel
    responses: list[TrainedResponse]
    segmenting: float = 0.0


@dataclass(frozen=True)
class Method(Step):
    """A way to train a policy. `baseline` is the method it is compared with."""

    baseline: str = "no training"


def training(train: Callable[[Workspace, Task], Trained]) -> Callable[[Workspace, Task], dict[str, Any]]:
    """The run of a method: train, then measure."""

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


def dpo(work: Workspace, task: Task) -> Trained:
    return _dpo(work, task)


def reverse_dpo(work: Workspace, task: Task) -> Trained:
    return _dpo(work, task, reverse=True)


def _dpo(work: Workspace, task: Task, **options: Any) -> Trained:
    pairs = work.policy_pairs(task.pairs)
    config = DPOConfig(beta=work.settings.task.beta, **options, **work.policy_options(task))
    rows = [pair.row(work.tokenizer) for pair in pairs]
    model = work.policy()
    train_quietly(DPOTrainer(model, config, rows, processing_class=work.tokenizer))
    return Trained(model, responses_of_pairs(work.tokenizer, rows, pairs))


def asr_dpo(work: Workspace, task: Task) -> Trained:
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
    train_quietly(trainer)
    responses = responses_of_pairs(work.tokenizer, trainer.train_dataset, pairs)
    return Trained(model, responses, segmenting.seconds)


def aligndistil(work: Workspace, task: Task) -> Trained:
    pairs = work.policy_pairs(task.pairs)
    rows = [pair.row(work.tokenizer) for pair in pairs]
    normal, reverse = (work.policy(task_of(step, work.seed, {"pairs": task.pairs})) for step in (DPO, REVERSE_DPO))
    config = AlignDistilConfig(beta=work.settings.task.beta, **work.policy_options(task))
    model = work.policy()
    trainer = AlignDistilTrainer(
        model, config, rows, processing_class=work.tokenizer, dpo_model=normal, reverse_dpo_model=reverse
    )
    train_quietly(trainer)
    # It reads the chosen responses alone, whole.
    return Trained(model, responses_of_pairs(work.tokenizer, rows, pairs)[::2])


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
