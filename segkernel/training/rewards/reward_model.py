"""Scores read from a reward model at every token."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from segkernel.training.rewards.functions import function_scorer
from segkernel.training.rewards.prefix_scores import PrefixScorer
from segkernel.training.trainer.batches import Batch, model_logits


def prefix_scores(model: nn.Module, batch: Batch) -> Tensor:
    """A reward model's score of every prefix, `[rows, T]`; meaningless at padding."""
    return model_logits(model, batch)[..., 0].float()


class RewardModelScorer:
    """`PrefixScorer` of a frozen reward model (`segkernel train reward`) on `device`."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model.to(device).eval().requires_grad_(False)

    def __call__(self, batch: Batch) -> Tensor:
        return prefix_scores(self.model, batch)


def prefix_scorer(
    reward_model: nn.Module | Callable[..., Any],
    device: torch.device,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    every_prefix: bool = False,
) -> PrefixScorer:
    """`PrefixScorer` of a reward model, or of a reward function (`segkernel.training.rewards.functions`).

    Args:
        every_prefix: whether scores within a response are read, not only that of the whole response.
    """
    if isinstance(reward_model, nn.Module):
        return RewardModelScorer(reward_model, device)
    return function_scorer(reward_model, tokenizer, every_prefix=every_prefix)
