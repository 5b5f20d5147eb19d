"""The capitals experiment on PPO alone, on more seeds, with candidates for the KL penalty and the baseline together.

In the experiment on all methods a policy sometimes finds short answers that its reward model overrates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.experiments.capitals.experiment import EXPERIMENT as CAPITALS
from benchmarks.experiments.capitals.preferences import START
from benchmarks.experiments.capitals.rollouts import ASR_PPO, PPO
from benchmarks.experiments.capitals.sample_selectors import RANDOM_PPO
from benchmarks.experiments.capitals.settings import CapitalsSettings
from benchmarks.experiments.framework.experiment import Candidate, Method, Question
from benchmarks.experiments.framework.jobs import Need
from benchmarks.experiments.framework.questions import label, option
from benchmarks.experiments.policies.thresholds import between

SHARED: dict[str, Any] = {"kl_coef": 1.0, "advantages": "rollout mean"}


def of_experiment(method: Method, baseline: Method, **others: Any) -> Method:
    """A method with the options of this experiment and a baseline that has them, too."""
    return replace(method.with_options(**SHARED), baseline=baseline, **others)


BASELINE = of_experiment(PPO, START)
SEGMENTS = of_experiment(ASR_PPO, BASELINE)
RANDOM = of_experiment(RANDOM_PPO, SEGMENTS, needs=(*PPO.needs, Need(SEGMENTS)))
COMPARED = (BASELINE, SEGMENTS)
LEARNING_RATES = (3e-4, 6e-4, 1e-3, 2e-3)
PENALTIES: dict[str, dict[str, Any]] = {f"KL penalty {label(value)}": {"kl_coef": value} for value in (0.3, 1.0, 3.0)}
WIDE_ZONE: dict[str, Any] = {**between(0.2, 0.5), "hold": False}


def learning_rates(method: Method, variants: Mapping[str, Mapping[str, Any]]) -> Question:
    """Learning rates of a method and of its variants."""
    candidates = [
        Candidate(label(rate), method.with_options(**options, learning_rate=rate), series=name)
        for name, options in variants.items()
        for rate in LEARNING_RATES
    ]
    return Question("learning rate", method, candidates)


EXPERIMENT = replace(
    CAPITALS,
    name="capitals-ppo",
    title="Capitals: PPO with a stronger KL penalty",
    settings=CapitalsSettings(seeds=tuple(range(55, 65)), tuning_seeds=tuple(range(100, 110))),
    conditions={CAPITALS.main_condition: CAPITALS.conditions[CAPITALS.main_condition]},
    methods=[START, BASELINE, SEGMENTS, RANDOM],
    questions=[
        *(option(method, "kl_coef", (0.05, 0.3, 1.0, 3.0)) for method in COMPARED),
        *(option(method, "advantages", ("values", "rollout mean")) for method in COMPARED),
        learning_rates(BASELINE, PENALTIES),
        learning_rates(SEGMENTS, {**PENALTIES, "limits 0.2, 0.5, no hold": WIDE_ZONE}),
        Question(
            "limits of the trigger",
            SEGMENTS,
            [
                Candidate("0.2, 0.3", SEGMENTS),
                Candidate("0.2, 0.5, no hold", SEGMENTS.with_options(**WIDE_ZONE)),
                Candidate("0.45, 0.55, no hold", SEGMENTS.with_options(**between(0.45, 0.55), hold=False)),
            ],
            unit="quantiles of the token rewards",
        ),
    ],
)
