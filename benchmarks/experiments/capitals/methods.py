"""Methods of the capitals experiment, in the order of its tables."""

from __future__ import annotations

from benchmarks.experiments.capitals.pair_selectors import PAIR_SELECTORS
from benchmarks.experiments.capitals.preferences import PREFERENCE_METHODS
from benchmarks.experiments.capitals.rollouts import PPO_METHODS, RFT_METHODS
from benchmarks.experiments.capitals.sample_selectors import PPO_SELECTORS, RFT_SELECTORS
from benchmarks.experiments.capitals.tuned import TUNED_METHODS
from benchmarks.experiments.framework.experiment import Method

METHODS: list[Method] = [
    *PREFERENCE_METHODS,
    *PAIR_SELECTORS,
    *RFT_METHODS,
    *RFT_SELECTORS,
    *PPO_METHODS,
    *PPO_SELECTORS,
    *TUNED_METHODS,
]
