"""The Schmitt trigger over token rewards."""

from __future__ import annotations

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel._library import ops, register_fake


def hysteresis(
    rewards: Tensor,
    mask: Tensor | None = None,
    *,
    low: float | Tensor,
    high: float | Tensor,
    initial: int | Tensor = 0,
    hold: bool = True,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Classifies each token as +1, 0 or -1 with a Schmitt trigger.

    The state is +1 where `r_t > high`, -1 where `r_t < low`; in between it stays what it was at the previous valid
    token (`hold=True`) or is 0 (`hold=False`, a plain dead zone). A NaN reward counts as in between. Source: the
    trigger of Adaptive Segment-level Reward, arXiv 2411.00809.

    Args:
        rewards: token rewards, `[B, T]`, or packed `[N]` with `cu_seqlens`; float64, float32, bfloat16 or float16.
        mask: same shape, bool or numeric, nonzero is valid; None means all valid.
        low, high: thresholds in units of reward, `low <= high`; scalars or one per row `[B]`.
        initial: the state before the first valid token, in {-1, 0, +1}; a scalar or one per row `[B]`.
        hold: whether the neutral zone keeps the state.
        cu_seqlens: `[B + 1]` int32 or int64, row offsets of packed tokens.

    Returns:
        int8, the shape of `rewards`; 0 at masked positions.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, `low > high`, an `initial` outside {-1, 0, +1}, bad offsets.

    Example:
        >>> import torch, segkernel
        >>> segkernel.hysteresis(torch.tensor([[0.1, 0.9, 0.3, -0.8, 0.3]]), low=-0.5, high=0.5)
        tensor([[ 0,  1,  1, -1, -1]], dtype=torch.int8)
    """
    rewards, mask, cu_seqlens = _tensors.tokens("rewards", rewards, mask, cu_seqlens)
    low_value, row_low = _tensors.per_row("low", low, rewards, cu_seqlens)
    high_value, row_high = _tensors.per_row("high", high, rewards, cu_seqlens)
    _tensors.ordered(low_value, row_low, high_value, row_high)
    initial_value, row_initial = _tensors.states("initial", initial, rewards, cu_seqlens)
    _validate.boolean("hold", hold)
    states: Tensor = ops.hysteresis.default(
        rewards,
        mask,
        low_value,
        row_low,
        high_value,
        row_high,
        initial_value,
        row_initial,
        hold,
        cu_seqlens,
    )
    return states


@register_fake("hysteresis")
def _(
    rewards: Tensor,
    mask: Tensor | None,
    low: float,
    row_low: Tensor | None,
    high: float,
    row_high: Tensor | None,
    initial: int,
    row_initial: Tensor | None,
    hold: bool,
    cu_seqlens: Tensor | None,
) -> Tensor:
    return torch.empty_like(rewards, dtype=torch.int8)
