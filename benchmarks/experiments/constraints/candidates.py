"""Questions that the tuning run answers, with their candidates."""

from __future__ import annotations

from benchmarks.experiments.constraints.pair_selectors import PAIR_SELECTORS
from benchmarks.experiments.constraints.preferences import ASR_DPO, DPO
from benchmarks.experiments.constraints.proximal import ASR_PPO, ENTROPY_PPO, PPO
from benchmarks.experiments.constraints.rejection import (
    ACCEPTABLE,
    ASR_RFT,
    RFT,
    TRUE_CREDIT_RFT,
)
from benchmarks.experiments.constraints.sample_selectors import SLM_RFT
from benchmarks.experiments.framework.experiment import Candidate, Question
from benchmarks.experiments.framework.questions import option
from benchmarks.experiments.policies.advantages import ADVANTAGES
from benchmarks.experiments.policies.thresholds import FEW_LIMITS, limits, units

LEARNING_RATES = (3e-5, 1e-4, 3e-4)
REJECTION = (RFT, ASR_RFT, TRUE_CREDIT_RFT)

QUESTIONS = [
    limits(ASR_DPO),
    units(ASR_DPO, ("mean", "sequence", "prompt")),
    option(ASR_DPO, "token_rewards", ("difference", "prefix")),
    option(ASR_DPO, "smoothing", (1, 3)),
    option(ASR_DPO, "min_segment_length", (1, 3)),
    option(ASR_DPO, "rejected_weight", (0.5, 1.0)),
    option(ASR_DPO, "rpo_alpha", (0.0, 0.3)),
    option(DPO, "learning_rate", LEARNING_RATES),
    option(ASR_DPO, "learning_rate", LEARNING_RATES),
    option(DPO, "rejected_weight", (0.1, 1.0)),
    limits(ASR_RFT, FEW_LIMITS),
    *(option(method, "learning_rate", LEARNING_RATES) for method in REJECTION),
    *(
        Question(
            "acceptable answers",
            method,
            [Candidate(name, method.with_options(acceptable=name)) for name in ACCEPTABLE],
        )
        for method in REJECTION
    ),
    *(option(method, "learning_rate", LEARNING_RATES) for method in (*PAIR_SELECTORS, SLM_RFT)),
    *(option(method, "learning_rate", LEARNING_RATES) for method in (PPO, ASR_PPO, ENTROPY_PPO)),
    # The mask of PPO keeps every token.
    option(PPO, "advantages", [name for name in ADVANTAGES if "kept" not in name]),
    option(ASR_PPO, "advantages", ADVANTAGES),
    option(ASR_PPO, "sequence_baseline", ("mean", "prompt")),
    limits(ASR_PPO),
]
