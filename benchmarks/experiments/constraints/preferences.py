"""Methods on preference pairs, each with its baseline, trained by its reference trainer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.experiments.constraints.answers import answer_credit
from benchmarks.experiments.constraints.measures import measure_policy
from benchmarks.experiments.constraints.stages import ANSWERS, REWARD
from benchmarks.experiments.constraints.workspace import ConstraintsWorkspace
from benchmarks.experiments.framework.experiment import Method
from benchmarks.experiments.framework.jobs import Job, Need
from benchmarks.experiments.policies.training import TrainedPolicy, train_and_measure
from benchmarks.experiments.pretrained.preferences import (
    ASR_DPO_OPTIONS,
    DPO_OPTIONS,
    asr_dpo,
    dpo,
    fitted,
    pair_options,
    pair_rows,
    random_dpo,
)
from segkernel.training import DPOConfig, DPOTrainer
from segkernel.training.data.columns import SEQUENCE_SIGNS, SIDES


def training(train: Callable[[ConstraintsWorkspace, Job], TrainedPolicy]) -> Callable[[Any, Job], dict[str, Any]]:
    """Function of a step that trains a policy and measures it."""
    return partial(trained_and_measured, train=train)


def trained_and_measured(
    work: ConstraintsWorkspace, job: Job, *, train: Callable[[ConstraintsWorkspace, Job], TrainedPolicy]
) -> dict[str, Any]:
    return train_and_measure(work, job, train=train, measure=partial(measure_policy, job=job))


def start(work: ConstraintsWorkspace, job: Job) -> dict[str, Any]:
    return measure_policy(work, work.policy(), job=job)


def true_credit(work: ConstraintsWorkspace, job: Job) -> TrainedPolicy:
    """DPO under the masks of a perfect reward model: right tokens of the chosen, violations of the rejected answer."""
    inputs = pair_rows(work, job)
    for row in inputs["train_dataset"]:
        for side, sign in zip(SIDES, SEQUENCE_SIGNS, strict=True):
            row[f"{side}_mask"] = [credit == sign for credit in answer_credit(work.tokenizer, row[f"{side}_ids"])]
    return fitted(work, job, DPOTrainer(work.policy(), DPOConfig(**pair_options(work, job)), **inputs))


LEARNING_RATE = {"learning_rate": DPO_OPTIONS["learning_rate"]}
PAIR_NEEDS = (Need(ANSWERS),)
START = Method("no training", start, needs=PAIR_NEEDS, decides=True)
DPO = Method(
    "dpo",
    training(dpo),
    uses=("pairs",),
    needs=PAIR_NEEDS,
    options=DPO_OPTIONS,
    baseline=START,
    decides=True,
)
ASR_DPO = Method(
    "asr-dpo",
    training(asr_dpo),
    uses=("pairs", "rewards"),
    needs=(Need(REWARD, {"pairs": "rewards"}),),
    options=ASR_DPO_OPTIONS,
    baseline=DPO,
    decides=True,
)
RANDOM_DPO = Method(
    "random-dpo",
    training(random_dpo),
    uses=("pairs", "rewards"),
    needs=(Need(ASR_DPO),),
    options=DPO.options,
    baseline=ASR_DPO,
    decides=True,
)
TRUE_CREDIT = Method(
    "true credit",
    training(true_credit),
    uses=("pairs",),
    needs=PAIR_NEEDS,
    options=DPO.options,
    baseline=DPO,
)

PREFERENCE_METHODS = [START, DPO, ASR_DPO, RANDOM_DPO, TRUE_CREDIT]
