"""What a reward model's scores of every prefix say: of a whole response, and of each of its tokens.

Batches are those of `ResponseCollator`, `[B, T]`, or of `PreferenceCollator`, `[B, 2, T]`; the sides of a pair are
rows of their own in what is returned.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

import segkernel
from segkernel.trainers.common import model_logits

# Scores of every prefix, `[B, T]`, read at the response's tokens and at the last token of the prompt.
PrefixScorer = Callable[[dict[str, Tensor]], Tensor]


class RewardModelScorer:
    """Reads a frozen reward model (`segkernel train --method reward`) at every token."""

    def __init__(self, model: nn.Module, device: Any) -> None:
        self.model = model.to(device).eval().requires_grad_(False)

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        return prefix_scores(self.model, batch)


def prefix_scores(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The model's score of every prefix, `[B, T]`; meaningless at padding."""
    return model_logits(model, batch)[..., 0].float()


def sequence_scores(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The score of each whole response, `[B]`: at its last token."""
    mask = batch["response_mask"].flatten(0, -2)
    return scores.gather(1, last_position(mask)[:, None])[:, 0]


def prompt_scores(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The score of each prompt alone, `[B]`: at the token before the response."""
    mask = batch["response_mask"].flatten(0, -2)
    before = (mask.int().argmax(dim=1) - 1).clamp(min=0)
    return scores.gather(1, before[:, None])[:, 0]


def token_rewards(scores: Tensor, batch: dict[str, Tensor], kind: str) -> Tensor:
    """Token rewards `[B, T]`: the `prefix` scores, or their `difference` (R3HF, arXiv 2411.08302)."""
    if kind == "prefix":
        return scores
    mask = batch["response_mask"].flatten(0, -2)
    return segkernel.redistribute(scores, mask, initial=prompt_scores(scores, batch))


def last_position(mask: Tensor) -> Tensor:
    """Position of each row's last valid token, `[B]`; the last of all in a row without one."""
    return mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)
