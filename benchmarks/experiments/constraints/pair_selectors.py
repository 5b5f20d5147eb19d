"""Methods that select or weigh tokens of preference pairs, and SimPO as the baseline of two of them."""

from __future__ import annotations

from functools import partial

from benchmarks.experiments.constraints.preferences import DPO, LEARNING_RATE, PAIR_NEEDS, START, training
from benchmarks.experiments.framework.experiment import Method
from benchmarks.experiments.framework.jobs import Need, Step
from benchmarks.experiments.pretrained.pair_selectors import confpo, sepo, simpo, tis_dpo
from benchmarks.experiments.pretrained.preferences import reverse_dpo

method = partial(Method, uses=("pairs",), options=LEARNING_RATE)
REVERSE_DPO = Step("reverse dpo", reverse_dpo, ("pairs",), PAIR_NEEDS, options={**DPO.options, "reverse": True})
TIS_DPO = method(
    "tis-dpo",
    training(partial(tis_dpo, dpo_model="dpo", reverse_dpo_model="reverse dpo")),
    needs=(Need(DPO), Need(REVERSE_DPO)),
    baseline=DPO,
)
SIMPO = method("simpo", training(simpo), needs=PAIR_NEEDS, baseline=START)
CONFPO = method("confpo", training(confpo), needs=PAIR_NEEDS, baseline=SIMPO)
SEPO = method("sepo", training(partial(sepo, dpo_model="dpo")), needs=(Need(DPO),), baseline=SIMPO)

PAIR_SELECTORS = [TIS_DPO, SIMPO, CONFPO, SEPO]
