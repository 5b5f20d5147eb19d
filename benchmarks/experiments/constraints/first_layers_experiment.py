"""The experiment on a real model with a reward model on the first layers; rejection sampling at a larger learning rate.

A linear head on the output of the second layer finds violations better than a reward model of all layers. Violations
are words and signs, which lower layers tell apart best.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.experiments.constraints.experiment import EXPERIMENT as SMOLLM2
from benchmarks.experiments.constraints.preferences import ASR_DPO, PREFERENCE_METHODS
from benchmarks.experiments.constraints.proximal import ASR_PPO, PPO, RANDOM_PPO
from benchmarks.experiments.constraints.rejection import ASR_RFT, RANDOM_RFT, RFT, TRUE_CREDIT_RFT
from benchmarks.experiments.constraints.settings import ConstraintsSettings
from benchmarks.experiments.framework.jobs import Need
from benchmarks.experiments.framework.questions import option
from benchmarks.experiments.framework.variants import tuned
from benchmarks.experiments.policies.thresholds import FEW_LIMITS, between, limits

OPTIONS: dict[str, Any] = {"learning_rate": 3e-4}
BEST_RFT = RFT.with_options(**OPTIONS)
BEST_ASR_RFT = replace(ASR_RFT.with_options(**OPTIONS), baseline=BEST_RFT)
RANDOM = replace(RANDOM_RFT.with_options(**OPTIONS), baseline=BEST_ASR_RFT, needs=(Need(BEST_ASR_RFT),))
TRUE_CREDIT = replace(TRUE_CREDIT_RFT.with_options(**OPTIONS), baseline=BEST_RFT)
# About one token in eight violates a constraint, so the limits are around that share instead of a quarter.
LOW_ASR_DPO = tuned(ASR_DPO, "low limits", **between(0.1, 0.2))
LEARNING_RATES = (1e-4, 3e-4, 1e-3)
PENALTIES = (0.1, 0.3, 1.0)

# The learning rate of rejection sampling; advantages are returns less the mean of their rollout, as in capitals-ppo.
PPO_OPTIONS: dict[str, Any] = {**OPTIONS, "kl_coef": 0.3, "advantages": "rollout mean"}
BEST_PPO = PPO.with_options(**PPO_OPTIONS)
BEST_ASR_PPO = replace(ASR_PPO.with_options(**PPO_OPTIONS), baseline=BEST_PPO)
RANDOM_TOKENS = replace(RANDOM_PPO.with_options(**PPO_OPTIONS), baseline=BEST_ASR_PPO, needs=(Need(BEST_ASR_PPO),))
PPO_METHODS = [BEST_PPO, BEST_ASR_PPO, RANDOM_TOKENS]

EXPERIMENT = replace(
    SMOLLM2,
    name="smollm2-first-layers",
    title="SmolLM2 under constraints: methods with a reward model on two layers",
    settings=ConstraintsSettings(seeds=(5, 6, 7, 8, 9), reward_layers=2, reward_epochs=4, reward_learning_rate=1e-3),
    methods=[*PREFERENCE_METHODS, LOW_ASR_DPO, BEST_RFT, BEST_ASR_RFT, RANDOM, TRUE_CREDIT, *PPO_METHODS],
    questions=[
        *(option(method, "learning_rate", LEARNING_RATES) for method in (BEST_RFT, BEST_ASR_RFT, TRUE_CREDIT)),
        limits(BEST_ASR_RFT, FEW_LIMITS),
        limits(ASR_DPO, FEW_LIMITS, conditions=("all pairs",)),
        *(option(method, "learning_rate", LEARNING_RATES) for method in (BEST_PPO, BEST_ASR_PPO)),
        *(option(method, "kl_coef", PENALTIES) for method in (BEST_PPO, BEST_ASR_PPO)),
    ],
)
