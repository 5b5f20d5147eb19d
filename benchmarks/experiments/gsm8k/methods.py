"""Methods on preference pairs, each with its baseline, trained by its reference trainer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.experiments.framework.experiment import Method
from benchmarks.experiments.framework.jobs import Job, Need
from benchmarks.experiments.gsm8k.measures import likelihood_accuracy, measure_policy
from benchmarks.experiments.gsm8k.stages import PAIRS, REWARD
from benchmarks.experiments.gsm8k.workspace import GSM8KWorkspace
from benchmarks.experiments.policies.training import TrainedPolicy, train_and_measure
from benchmarks.experiments.pretrained.pair_selectors import confpo, sepo, simpo
from benchmarks.experiments.pretrained.preferences import (
    ASR_DPO_OPTIONS,
    DPO_OPTIONS,
    asr_dpo,
    dpo,
    random_dpo,
)


def training(train: Callable[[GSM8KWorkspace, Job], TrainedPolicy]) -> Callable[[Any, Job], dict[str, Any]]:
    """Function of a step that trains a policy and measures it."""
    return partial(train_and_measure, train=train, measure=measure_policy)


def start(work: GSM8KWorkspace, job: Job) -> dict[str, Any]:
    """The start model is its own reference: every implicit reward is 0, so that it ranks pairs by chance."""
    return {"preference_accuracy": 0.5, "likelihood_accuracy": likelihood_accuracy(work.start_logprobs())}


FAST = {"learning_rate": 1e-4}
ON_PAIRS = (Need(PAIRS),)
START = Method("no training", start, needs=ON_PAIRS, decides=True)
DPO = Method("dpo", training(dpo), ("pairs",), ON_PAIRS, DPO_OPTIONS, baseline=START, decides=True)
ASR_DPO = Method("asr-dpo", training(asr_dpo), ("pairs",), (Need(REWARD),), ASR_DPO_OPTIONS, baseline=DPO, decides=True)
RANDOM_DPO = Method(
    "random-dpo", training(random_dpo), ("pairs",), (Need(ASR_DPO),), DPO_OPTIONS, baseline=ASR_DPO, decides=True
)
SIMPO = Method("simpo", training(simpo), ("pairs",), ON_PAIRS, FAST, baseline=START)
CONFPO = Method("confpo", training(confpo), ("pairs",), ON_PAIRS, FAST, baseline=SIMPO)
SEPO = Method("sepo", training(partial(sepo, dpo_model="dpo")), ("pairs",), (Need(DPO),), FAST, baseline=SIMPO)

METHODS = [START, DPO, ASR_DPO, RANDOM_DPO, SIMPO, CONFPO, SEPO]
