"""Reward model: Bradley-Terry on whole responses, read at every token.

The score of a response is the head's output at its last token (`last`) or the sum of the outputs at its tokens (`sum`),
which `mean` divides by the mean length of the training responses. Since the model is causal, every prefix has a score
as well, and token rewards are made of these (arXiv 2411.00809, 2411.08302). Preferences between whole responses say
nothing about the output at a token before the last one, so prefix scores of the first kind are good only as far as the
model generalizes from responses to prefixes. A sum gives each token its own share of the score, so every output is
trained. With the divisor outputs grow larger before the loss is as low.
"""

from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from segkernel import _validate
from segkernel.losses import bradley_terry_loss
from segkernel.training.data.columns import SIDES
from segkernel.training.data.tables import list_lengths
from segkernel.training.models.first_layers import keep_first_layers
from segkernel.training.rewards.prefix_scores import sequence_scores
from segkernel.training.rewards.reward_model import ScoreReduction, prefix_scores, set_score_scale
from segkernel.training.trainer.base import Split
from segkernel.training.trainer.batches import Batch
from segkernel.training.trainer.preference import PreferenceConfig, PreferenceTrainer


@dataclass
class RewardConfig(PreferenceConfig):
    """Settings of `RewardTrainer`."""

    learning_rate: float = field(default=1e-4, metadata={"help": "AdamW's peak learning rate."})
    score: ScoreReduction = field(
        default="last",
        metadata={
            "help": "Score of a response: the model's output at its `last` token or, for better token rewards, the "
            "`sum` of the outputs at its tokens, or the sum divided by the `mean` length of the training responses."
        },
    )
    layers: int | None = field(
        default=None,
        metadata={
            "help": "Keep only so many of the model's first layers, frozen, and train a linear head on their output. "
            "With few layers and --score sum, token rewards are about the tokens themselves. Default: train the whole "
            "model."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.one_of("score", self.score, get_args(ScoreReduction))
        if self.layers is not None:
            _validate.integer("layers", self.layers, at_least=1)


class RewardTrainer(PreferenceTrainer):
    """Trains a model with one output per token (`num_labels=1`) to score `chosen` above `rejected`.

    With `args.layers` the model itself is cut after its first layers.
    """

    accuracy_metric = "accuracy"
    args: RewardConfig

    def __init__(self, model: PreTrainedModel, args: RewardConfig, *rows: Any, **kwargs: Any) -> None:
        if args.layers is not None:
            if kwargs.get("peft_config") is not None:
                raise ValueError("layers: expected no adapter with it, since only the head is trained, got one")
            keep_first_layers(model, args.layers)
        super().__init__(model, args, *rows, **kwargs)

    def prepare(self, dataset: Dataset, split: Split) -> Dataset:
        dataset = super().prepare(dataset, split)
        if split == "train":
            lengths = [list_lengths(dataset, f"{side}_ids") for side in SIDES]
            scales = {"last": None, "sum": 1.0, "mean": float(1 / np.mean(lengths))}
            assert self.model is not None
            set_score_scale(self.model, scales[self.args.score])
        return dataset

    def pair_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        scores = prefix_scores(model, batch)  # [2 * B, T]
        chosen, rejected = sequence_scores(scores, batch).view(-1, 2).unbind(1)
        return bradley_terry_loss(chosen, rejected), {
            "accuracy": (chosen > rejected).float(),
            "scores/chosen": chosen,
            "scores/rejected": rejected,
            "scores/margin": chosen - rejected,
        }
