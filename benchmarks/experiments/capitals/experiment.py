"""The capitals experiment: every method on a generated task where the true credit of each token is known."""

from __future__ import annotations

from benchmarks.experiments.capitals.candidates import QUESTIONS
from benchmarks.experiments.capitals.methods import METHODS
from benchmarks.experiments.capitals.settings import CapitalsSettings
from benchmarks.experiments.capitals.workspace import CapitalsWorkspace
from benchmarks.experiments.framework.columns import Column
from benchmarks.experiments.framework.experiment import Experiment

ANSWERS = "Parts right and malformed answers are shares of greedy answers to held-out questions."
CONDITIONS = (
    "A condition names the source of a policy's pairs and of its rewards: all pairs; adversarial pairs (the preference "
    "contradicts more than half of the parts) with a reward model of all pairs; adversarial pairs for both."
)
MEASURES = (
    "KL: divergence from the start model in nats per sampled answer; length in tokens. A mask agrees with the true "
    "credit at a token if it keeps the token exactly when its credit has the sign of its response's verdict. Pairs "
    "ranked right: held-out pairs whose preferred answer gained more log-probability than the other, over whole "
    "answers or over the tokens under the mask."
)

EXPERIMENT = Experiment(
    name="capitals",
    title="Capitals: methods against their baselines",
    settings=CapitalsSettings(),
    workspace=CapitalsWorkspace,
    conditions={
        "all pairs": {"pairs": "all", "rewards": "all"},
        "adversarial pairs": {"pairs": "adversarial", "rewards": "all"},
        "adversarial pairs and rewards": {"pairs": "adversarial", "rewards": "adversarial"},
    },
    methods=METHODS,
    questions=QUESTIONS,
    columns=[
        Column("parts right", "parts_right"),
        Column("malformed", "malformed", compact=True),
        Column("all parts right", "all_right"),
        Column("starred parts right", "starred_right"),
        Column("KL", "kl", "number", digits=2),
        Column("length", "length", "number"),
        Column("tokens trained on", "tokens_trained"),
        Column("mask agrees with true credit", "mask_agreement"),
        Column("agreement of a full mask", "agreement_of_everything"),
        Column("segments", "segments", "number"),
        Column("pairs ranked right", "preference_accuracy"),
        Column("pairs ranked right under the mask", "masked_preference_accuracy"),
        Column("adversarial parts moved right", "moved_right"),
        Column("seconds", "seconds", "number"),
        Column("time for segments", "segmenting"),
    ],
    stage_columns=[
        Column("training pairs", "pairs", "number", digits=0),
        Column("held-out pairs ranked right", "accuracy"),
    ],
    legend=f"{ANSWERS} {CONDITIONS} {MEASURES}",
    preload=("examples.capitals.training",),
)
