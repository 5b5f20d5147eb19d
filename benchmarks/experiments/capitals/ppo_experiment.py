"""The capitals experiment on PPO alone: its KL penalty and learning rate are tuned together, and more seeds confirm.

In the experiment on all methods, a policy of PPO sometimes ends with short answers, which its reward model overrates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.experiments.capitals.experiment import ANSWERS, MEASURES
from benchmarks.experiments.capitals.experiment import EXPERIMENT as CAPITALS
from benchmarks.experiments.capitals.preferences import START
from benchmarks.experiments.capitals.rollouts import ASR_PPO, PPO
from benchmarks.experiments.capitals.sample_selectors import RANDOM_PPO
from benchmarks.experiments.capitals.settings import CapitalsSettings
from benchmarks.experiments.capitals.tuned import ROLLOUT_MEAN
from benchmarks.experiments.framework.experiment import Candidate, Method, Question
from benchmarks.experiments.framework.jobs import Need
from benchmarks.experiments.framework.questions import label, option
from benchmarks.experiments.framework.variants import tuned
from benchmarks.experiments.policies.thresholds import between

# Candidates differ from these in one option, or in the learning rate and one other.
MIDDLE = {"kl_coef": 1.0, **ROLLOUT_MEAN}
MIDDLE_PPO, MIDDLE_ASR_PPO = PPO.with_options(**MIDDLE), ASR_PPO.with_options(**MIDDLE)
COMPARED = (MIDDLE_PPO, MIDDLE_ASR_PPO)
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


def trigger_limits(method: Method) -> Question:
    candidates = [
        Candidate("0.2, 0.3", method),
        Candidate("0.2, 0.5, no hold", method.with_options(**WIDE_ZONE)),
        Candidate("0.45, 0.55, no hold", method.with_options(**between(0.45, 0.55), hold=False)),
    ]
    return Question("limits of the trigger", method, candidates, unit="quantiles of the token rewards")


# The best on the tuning seeds, by the parts right.
PPO_OPTIONS: dict[str, Any] = {**MIDDLE, "kl_coef": 1.0, "learning_rate": 1e-3}
ASR_PPO_OPTIONS: dict[str, Any] = {**MIDDLE, "kl_coef": 3.0, "learning_rate": 1e-3}
BEST_PPO = PPO.with_options(**PPO_OPTIONS)
BEST_ASR_PPO = replace(ASR_PPO.with_options(**ASR_PPO_OPTIONS), baseline=BEST_PPO)
# Controls: whether the options make the difference, or the number of tokens.
SAME_PPO = tuned(PPO, "options of asr-ppo", against=BEST_ASR_PPO, **ASR_PPO_OPTIONS)
RANDOM = replace(
    RANDOM_PPO.with_options(**ASR_PPO_OPTIONS), baseline=BEST_ASR_PPO, needs=(*PPO.needs, Need(BEST_ASR_PPO))
)

EXPERIMENT = replace(
    CAPITALS,
    name="capitals-ppo",
    title="Capitals: PPO with tuned KL penalties",
    settings=CapitalsSettings(seeds=tuple(range(55, 75)), tuning_seeds=tuple(range(100, 110))),
    conditions={CAPITALS.main_condition: CAPITALS.conditions[CAPITALS.main_condition]},
    legend=f"{ANSWERS} {MEASURES}",
    methods=[START, BEST_PPO, BEST_ASR_PPO, SAME_PPO, RANDOM],
    questions=[
        *(option(method, "kl_coef", (0.05, 0.3, 1.0, 3.0)) for method in COMPARED),
        *(option(method, "advantages", ("values", "rollout mean")) for method in COMPARED),
        learning_rates(MIDDLE_PPO, PENALTIES),
        learning_rates(MIDDLE_ASR_PPO, {**PENALTIES, "limits 0.2, 0.5, no hold": WIDE_ZONE}),
        trigger_limits(MIDDLE_ASR_PPO),
    ],
)
