"""Questions that the tuning run of the capitals experiment answers, with their candidates."""

from __future__ import annotations

from benchmarks.experiments.capitals.methods import METHODS
from benchmarks.experiments.capitals.preferences import ASR_DPO, DPO
from benchmarks.experiments.capitals.rewarded import FIXED, IMPLICIT, NOISY, TRUE_CREDIT
from benchmarks.experiments.capitals.rollouts import ASR_PPO, ASR_RFT, PPO
from benchmarks.experiments.capitals.tuned import TUNED_METHODS
from benchmarks.experiments.framework.experiment import Candidate, Question
from benchmarks.experiments.framework.questions import option
from benchmarks.experiments.policies.advantages import ADVANTAGES, UNCHANGED
from benchmarks.experiments.policies.thresholds import FEW_LIMITS, limits, units

LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
PIVOTS = (0.5, 0.7, 0.9)
# A token's reward, or the score of the response up to it, whose jumps are change points.
STEPS = {"of the token rewards": "difference", "of the prefix scores": "prefix"}
# The pairs that a method on segments is meant for, and those that it is not.
SWEPT = ("all pairs", "adversarial pairs")
MAIN = ("all pairs",)


LEARNING_RATE = [
    option(method, "learning_rate", LEARNING_RATES, conditions=MAIN)
    for method in METHODS
    if "learning_rate" in method.options and method not in TUNED_METHODS
]

PAIR_QUESTIONS = [
    option(ASR_DPO, "token_rewards", ("difference", "prefix"), conditions=SWEPT),
    limits(ASR_DPO, conditions=SWEPT),
    units(ASR_DPO, ("0", "mean", "median", "sequence", "prompt"), conditions=SWEPT),
    option(ASR_DPO, "smoothing", (1, 2, 3), conditions=SWEPT),
    option(ASR_DPO, "min_segment_length", (1, 2, 3), conditions=SWEPT),
    option(ASR_DPO, "keep_neutral", (False, True), conditions=SWEPT),
    option(ASR_DPO, "rpo_alpha", (0.0, 0.1, 0.3, 1.0), conditions=SWEPT),
    *(option(method, "rejected_weight", (0.0, 0.25, 0.5, 1.0), conditions=SWEPT) for method in (ASR_DPO, DPO)),
    Question(
        "pivots only",
        ASR_DPO,
        [
            Candidate(
                f"{pivot:g}",
                ASR_DPO.with_options(delta=None, pivot_threshold=pivot, token_rewards=token_rewards),
                series=f"steps {name}",
            )
            for name, token_rewards in STEPS.items()
            for pivot in PIVOTS
        ],
        unit="quantiles of the steps",
        conditions=SWEPT,
    ),
    Question(
        "segments",
        ASR_DPO,
        [Candidate("Schmitt trigger", ASR_DPO), *(Candidate(name, method) for name, method in FIXED.items())],
        conditions=SWEPT,
    ),
    Question(
        "source of the token rewards",
        ASR_DPO,
        [
            Candidate("reward model", ASR_DPO),
            Candidate("DPO's implicit rewards", IMPLICIT),
            Candidate("true credit", TRUE_CREDIT),
        ],
        conditions=SWEPT,
    ),
    Question(
        "noise",
        ASR_DPO,
        [Candidate("0", ASR_DPO), *(Candidate(f"{noise:g}", method) for noise, method in NOISY.items())],
        unit="in standard deviations of the token rewards",
        conditions=SWEPT,
    ),
]

ROLLOUT_QUESTIONS = [
    question
    for method in (ASR_RFT, ASR_PPO)
    for question in (
        option(method, "token_rewards", ("difference", "prefix"), conditions=MAIN),
        limits(method, FEW_LIMITS, conditions=MAIN),
        units(method, ("0", "mean"), conditions=MAIN),
        option(method, "keep_neutral", (False, True), conditions=MAIN),
    )
]

PPO_QUESTIONS = [
    *(
        Question(
            "advantages",
            method,
            [
                Candidate(name, method if name == UNCHANGED else method.with_options(advantages=name))
                for name in ADVANTAGES
                # The mask of PPO keeps every token.
                if method is ASR_PPO or "kept" not in name
            ],
            conditions=MAIN,
        )
        for method in (PPO, ASR_PPO)
    ),
    Question(
        "sequence baseline",
        ASR_PPO,
        [Candidate("mean", ASR_PPO), Candidate("prompt", ASR_PPO.with_options(sequence_baseline="prompt"))],
        conditions=MAIN,
    ),
]

QUESTIONS = [*PAIR_QUESTIONS, *ROLLOUT_QUESTIONS, *PPO_QUESTIONS, *LEARNING_RATE]
