"""Advantages and importance ratios per segment, shared by the integrations of frameworks with token-level batches."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segkernel.ops.discounted_sum import discounted_sum
from segkernel.ops.group_normalize import group_normalize
from segkernel.ops.importance_weights import importance_weights
from segkernel.ops.segment import segment
from segkernel.ops.segment_broadcast import segment_broadcast
from segkernel.ops.segment_by_mask import segment_by_mask
from segkernel.ops.segment_reduce import segment_reduce

MAX_LOG_RATIO = 10.0  # as in verl's GSPO


@torch.no_grad()
def turn_advantages(
    rewards: Tensor, mask: Tensor, index: Any, *, gamma: float = 1.0, per: str = "group", scale: bool = True
) -> Tensor:
    """Advantages `[B, T]` of turns, the runs of valid positions: their returns relative to those of the group.

    A turn's return is the sum of its own token rewards and of the later turns', discounted by `gamma` per turn. A
    reward at a masked position belongs to the turn before it: frameworks put the reward of a response at its last
    token, which may be tool output. `index` `[B]` is equal for samples of one prompt; `per` and `scale` as in
    `segkernel.group_normalize`.
    """
    ids, counts = segment_by_mask(mask)
    turns = segment_reduce(rewards_under(mask, rewards), ids, mask.shape[1])
    present = torch.arange(turns.shape[1], device=turns.device) < counts[:, None]
    returns = discounted_sum(turns, present, discount=gamma)
    return segment_broadcast(group_normalize(returns, counts, _groups(index, ids), per=per, scale=scale), ids)


@torch.no_grad()
def agreeing_advantages(
    rewards: Tensor, mask: Tensor, index: Any, *, scores: Tensor | None = None, scale: bool = True, **options: Any
) -> Tensor:
    """Advantages `[B, T]` of responses, 0 outside of the segments whose sign agrees with them (arXiv 2411.00809).

    A response's advantage is its score relative to the group's. `scores` `[B]` default to the sums of all token
    rewards, as in GRPO, also those at masked positions; `options` are those of `segkernel.segment`.
    """
    valid = mask.bool()
    scores = rewards.sum(1) if scores is None else scores
    ones = torch.ones(len(scores), dtype=torch.int32, device=scores.device)
    advantages = group_normalize(scores[:, None], ones, _groups(index, scores), scale=scale)
    kept = segment(rewards, valid, sequence_sign=advantages[:, 0], **options).mask
    assert kept is not None  # since signs were given
    return advantages * kept


def rewards_under(mask: Tensor, rewards: Tensor) -> Tensor:
    """Rewards `[B, T]` with those of masked positions added to the last valid one before; the sums of rows stay.

    Example:
        >>> rewards_under(torch.tensor([[0, 1, 1, 0, 1]]), torch.tensor([[0.0, 0.0, 1.0, 2.0, 3.0]]))
        tensor([[0., 0., 3., 0., 3.]])
    """
    valid = mask.bool()
    length = mask.shape[1]
    last = torch.arange(length, device=mask.device).expand_as(valid).masked_fill(~valid, -1).cummax(1).values
    # Rewards ahead of all valid positions go to the first of them.
    first = (last < 0).sum(1, keepdim=True).clamp(max=length - 1)
    return torch.zeros_like(rewards).scatter_add(1, torch.where(last < 0, first, last), rewards)


def with_remainder(rewards: Tensor, mask: Tensor, scores: Tensor) -> Tensor:
    """Token rewards `[B, T]` whose sums over a row's valid tokens are `scores` `[B]`: the last one gets the difference.

    Rewards at masked positions are 0. Rows without valid tokens stay 0.

    Example:
        >>> rewards, mask = torch.tensor([[1.0, 9.0, 2.0, 9.0]]), torch.tensor([[1, 0, 1, 0]])
        >>> with_remainder(rewards, mask, torch.tensor([5.0]))
        tensor([[1., 0., 4., 0.]])
    """
    valid = mask.bool()
    rewards = rewards.masked_fill(~valid, 0.0)
    last = valid & (valid.flip(1).cumsum(1).flip(1) == 1)
    return rewards + last * (scores - rewards.sum(1))[:, None]


def segment_ratios(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Importance ratios `[B, T]` of runs of valid positions, `exp` of their mean log-ratio; 0 at masked positions.

    The value is that of the run, the gradient that of the token, as in GSPO (arXiv 2507.18071, eq. 14).
    """
    ids, _ = segment_by_mask(mask)
    ratios, _ = importance_weights(
        logprobs.detach(),
        old_logprobs,
        level="segment",
        ids=ids,
        num_segments=ids.shape[1],
        high=math.exp(MAX_LOG_RATIO),
    )
    return ratios * (logprobs - logprobs.detach()).exp()


def _groups(index: Any, like: Tensor) -> Tensor:
    """Number of each response's prompt, `[B]` int64."""
    return torch.from_numpy(np.unique(np.asarray(index).astype(str), return_inverse=True)[1]).to(like.device)
