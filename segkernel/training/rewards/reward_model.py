"""Scores read from a reward model at every token."""

import torch
from torch import Tensor, nn

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


def prefix_scorer(reward_model: nn.Module | PrefixScorer, device: torch.device) -> PrefixScorer:
    """`PrefixScorer` of a reward model; a function is returned as it is."""
    return RewardModelScorer(reward_model, device) if isinstance(reward_model, nn.Module) else reward_model
