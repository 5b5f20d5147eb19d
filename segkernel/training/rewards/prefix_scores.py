"""Sequence scores and token rewards derived from per-prefix reward-model scores.

Scores are `[rows, T]`, one for the prefix that ends at each token. Batches are those of `ResponseCollator`, `[B, T]`,
or of `PreferenceCollator`, `[B, 2, T]`, whose two responses per pair are separate rows of the scores.
"""

from collections.abc import Callable

from torch import Tensor

import segkernel
from segkernel.training.trainer.batches import Batch

# Function from a batch to scores of every prefix, read at the response's tokens and at the last token of the prompt.
PrefixScorer = Callable[[Batch], Tensor]


def sequence_scores(scores: Tensor, batch: Batch) -> Tensor:
    """Score of each whole response, `[rows]`: the one at its last token."""
    mask = batch["response_mask"].flatten(0, -2)
    return scores.gather(1, last_position(mask)[:, None])[:, 0]


def prompt_scores(scores: Tensor, batch: Batch) -> Tensor:
    """Score of each prompt without its response, `[rows]`: the one at the token before the response."""
    mask = batch["response_mask"].flatten(0, -2)
    before = (mask.int().argmax(dim=1) - 1).clamp(min=0)
    return scores.gather(1, before[:, None])[:, 0]


def token_rewards(scores: Tensor, batch: Batch, kind: str) -> Tensor:
    """Token rewards `[rows, T]`: the `prefix` scores, or their `difference` (R3HF, arXiv 2411.08302)."""
    if kind == "prefix":
        return scores
    mask = batch["response_mask"].flatten(0, -2)
    return segkernel.redistribute(scores, mask, initial=prompt_scores(scores, batch))


def finite_responses(scores: Tensor, batch: Batch) -> Tensor:
    """Boolean `[rows]`: every score that is read for a response, its prompt's included, is finite."""
    mask = batch["response_mask"].flatten(0, -2)
    return (scores.isfinite() | ~(mask | mask.roll(-1, dims=1))).all(dim=1)


def last_position(mask: Tensor) -> Tensor:
    """Position of each row's last valid token, `[rows]`; `T - 1` in a row without one."""
    return mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)
