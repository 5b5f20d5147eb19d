"""Pivot detection over token rewards."""

from __future__ import annotations

import torch
from torch import Tensor

from segkernel import _tensors
from segkernel._library import ops, register_fake


def detect_pivots(
    rewards: Tensor,
    mask: Tensor | None = None,
    *,
    threshold: float | Tensor,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Marks the tokens whose reward differs from the previous valid token's by more than `threshold`.

    The first valid token of a row is always a pivot (Adaptive Segment-level Reward, arXiv 2411.00809, sec. 3:
    pivots open segments).

    Args:
        rewards: token rewards, `[B, T]`, or packed `[N]` with `cu_seqlens`; float64, float32, bfloat16 or float16.
        mask: same shape, bool or numeric, nonzero is valid; None means all valid.
        threshold: `>= 0`, a scalar or one per row `[B]`, in units of reward.
        cu_seqlens: `[B + 1]` int32 or int64, row offsets of packed tokens.

    Returns:
        bool, the shape of `rewards`; False at masked positions.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, a negative threshold, offsets that decrease or don't end at N.

    Example:
        >>> import torch, segkernel
        >>> segkernel.detect_pivots(torch.tensor([[0.0, 0.1, 0.9, 1.0]]), threshold=0.5)
        tensor([[ True, False,  True, False]])
    """
    rewards, mask, cu_seqlens = _tensors.tokens("rewards", rewards, mask, cu_seqlens)
    value, row_value = _tensors.per_row("threshold", threshold, rewards, cu_seqlens)
    _tensors.not_negative("threshold", value, row_value)
    pivots: Tensor = ops.detect_pivots.default(rewards, mask, value, row_value, cu_seqlens)
    return pivots


@register_fake("detect_pivots")
def _(
    rewards: Tensor,
    mask: Tensor | None,
    threshold: float,
    row_threshold: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    return torch.empty_like(rewards, dtype=torch.bool)
