"""Scores read from a reward model at every token."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from segkernel.training.models.forward import innermost
from segkernel.training.rewards.functions import function_scorer
from segkernel.training.rewards.prefix_scores import PrefixScorer
from segkernel.training.trainer.batches import Batch, model_logits

# Score of a response: the head's output at its last token, or the sum of the outputs at its tokens. `mean` divides the
# sum by the mean length of the training responses.
ScoreReduction = Literal["last", "sum", "mean"]
SCALE = "segkernel_score_scale"  # attribute of the model's config, saved with it: factor of a summed score


def prefix_scores(model: nn.Module, batch: Batch) -> Tensor:
    """A reward model's score of every prefix, `[rows, T]`; meaningless at padding.

    A model that adds up its outputs scores the tokens of the response only: the score of the prompt is 0.
    """
    outputs = model_logits(model, batch)[..., 0].float()
    scale = score_scale(model)
    if scale is None:
        return outputs
    return scale * outputs.masked_fill(~batch["response_mask"].flatten(0, -2), 0.0).cumsum(1)


def score_scale(model: nn.Module) -> float | None:
    """Factor of the sum of a reward model's outputs; `None` for a model that is read at the last token."""
    return getattr(getattr(innermost(model), "config", None), SCALE, None)


def set_score_scale(model: nn.Module, scale: float | None) -> None:
    """Choose how a reward model's outputs make its score; it is saved with the model."""
    config: Any = innermost(model).config
    setattr(config, SCALE, scale)


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
