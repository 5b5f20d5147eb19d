"""Registry of the training methods: one entry per method, read by the command line, the exports and the docs."""

import importlib
from dataclasses import dataclass
from typing import Any, Literal

MODELS = "models to start from"
PAIRS = "policies on preference pairs"
SAMPLES = "policies on their best sampled responses"
TAUGHT = "policies on sampled responses, by a teacher"
PPO = "policies on sampled responses, by PPO"


@dataclass(frozen=True)
class Method:
    """Training method: its name on the command line, its classes, and the inputs of its trainer.

    Args:
        name: NAME in `segkernel train NAME`; its module is `segkernel.training.methods.<name>`, with underscores.
        stem: its classes are `<stem>Config` and `<stem>Trainer`.
        group: heading of the list that `segkernel train` prints.
        summary: one line about the model and the data that it is trained on.
        paper: arXiv number of its source, if any.
        data: kind of the rows in `train_dataset`.
        model: kind of the trainer's `model`.
        inputs: names in `segkernel.training.cli.inputs` of the trainer's further keyword arguments.
    """

    name: str
    stem: str
    group: str
    summary: str
    paper: str | None
    data: Literal["texts", "preferences", "prompts"]
    model: Literal["language", "reward"] = "language"
    inputs: tuple[str, ...] = ()

    @property
    def module(self) -> str:
        """Full name of the module that holds the classes."""
        return f"segkernel.training.methods.{self.name.replace('-', '_')}"

    @property
    def class_names(self) -> tuple[str, str]:
        """Names of the config class and the trainer class."""
        return f"{self.stem}Config", f"{self.stem}Trainer"

    def load(self) -> tuple[Any, Any]:
        """Import the method's module.

        Returns:
            The config class and the trainer class.
        """
        module = importlib.import_module(self.module)
        config, trainer = (getattr(module, name) for name in self.class_names)
        return config, trainer


_ENTRIES = (
    Method("pretrain", "Pretrain", MODELS, "language model, on texts", None, "texts"),
    Method(
        "reward",
        "Reward",
        MODELS,
        "reward model of responses, on pairs",
        "2203.02155",
        "preferences",
        model="reward",
    ),
    Method(
        "segment-reward",
        "SegmentReward",
        MODELS,
        "reward model of segments, on pairs",
        "2501.02790",
        "preferences",
        model="reward",
        inputs=("start_model",),
    ),
    Method("dpo", "DPO", PAIRS, "DPO on whole responses", "2305.18290", "preferences"),
    Method(
        "asr-dpo",
        "ASRDPO",
        PAIRS,
        "DPO on segments that earned the preference",
        "2411.00809",
        "preferences",
        inputs=("reward_model",),
    ),
    Method(
        "tis-dpo",
        "TISDPO",
        PAIRS,
        "DPO with a weight for every token",
        "2410.04350",
        "preferences",
        inputs=("dpo_model", "reverse_dpo_model"),
    ),
    Method(
        "random-dpo",
        "RandomDPO",
        PAIRS,
        "DPO on random tokens, a control",
        None,
        "preferences",
    ),
    Method(
        "simpo",
        "SimPO",
        PAIRS,
        "SimPO on whole responses",
        "2405.14734",
        "preferences",
    ),
    Method(
        "confpo",
        "ConfPO",
        PAIRS,
        "SimPO on tokens of low probability",
        None,
        "preferences",
    ),
    Method(
        "sepo",
        "SePO",
        PAIRS,
        "SimPO on tokens selected by a DPO model",
        "2408.13518",
        "preferences",
        inputs=("dpo_model", "dpo_reference"),
    ),
    Method(
        "aligndistil",
        "AlignDistil",
        PAIRS,
        "token-level distillation beyond a DPO model",
        "2503.02832",
        "preferences",
        inputs=("dpo_model", "reverse_dpo_model"),
    ),
    Method(
        "rft",
        "RFT",
        SAMPLES,
        "rejection sampling on whole responses",
        "2411.00809",
        "prompts",
        inputs=("reward_model",),
    ),
    Method(
        "asr-rft",
        "ASRRFT",
        SAMPLES,
        "rejection sampling on positive segments",
        "2411.00809",
        "prompts",
        inputs=("reward_model",),
    ),
    Method(
        "slm-rft",
        "SLMRFT",
        SAMPLES,
        "rejection sampling on high excess loss",
        "2404.07965",
        "prompts",
        inputs=("reward_model", "ref_model"),
    ),
    Method(
        "random-rft",
        "RandomRFT",
        SAMPLES,
        "rejection sampling on random tokens, a control",
        None,
        "prompts",
        inputs=("reward_model",),
    ),
    Method(
        "distill",
        "Distill",
        TAUGHT,
        "distillation from a teacher's distributions",
        "2306.13649",
        "prompts",
        inputs=("teacher",),
    ),
    Method("ppo", "PPO", PPO, "reward at the last token", "1707.06347", "prompts", inputs=("reward_model",)),
    Method(
        "asr-ppo",
        "ASRPPO",
        PPO,
        "loss on segments that earned the reward",
        "2411.00809",
        "prompts",
        inputs=("reward_model",),
    ),
    Method(
        "entropy-ppo",
        "EntropyPPO",
        PPO,
        "loss on tokens of high entropy",
        "2506.01939",
        "prompts",
        inputs=("reward_model",),
    ),
    Method(
        "random-ppo",
        "RandomPPO",
        PPO,
        "loss on random tokens, a control",
        None,
        "prompts",
        inputs=("reward_model",),
    ),
    Method(
        "segment-ppo",
        "SegmentPPO",
        PPO,
        "rewards of segments, normalized by position",
        "2501.02790",
        "prompts",
        inputs=("reward_model", "segmenter"),
    ),
    Method(
        "token-ppo",
        "TokenPPO",
        PPO,
        "segment-ppo with one segment per token",
        "2501.02790",
        "prompts",
        inputs=("reward_model", "segmenter"),
    ),
    Method(
        "r3hf-ppo",
        "R3HFPPO",
        PPO,
        "reward redistributed over the tokens",
        "2411.08302",
        "prompts",
        inputs=("reward_model",),
    ),
)

METHODS = {method.name: method for method in _ENTRIES}
