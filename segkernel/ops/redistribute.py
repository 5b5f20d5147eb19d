"""Token rewards from prefix scores."""

from __future__ import annotations

import torch
from torch import Tensor

from segkernel import _tensors
from segkernel._library import no_gradient, ops, register_fake


def redistribute(
    prefix_scores: Tensor,
    mask: Tensor | None = None,
    *,
    initial: float | Tensor = 0.0,
    sequence_rewards: Tensor | None = None,
    mix: float | Tensor = 1.0,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Token rewards as differences of a reward model's prefix scores.

    `mix * (s_t - s_prev) + (1 - mix) * [t is the last valid token] * sequence_rewards`, where `s_prev` is the
    previous valid token's score and `initial` before the first. With `mix=1` a row sums to `s_last - initial`.
    Source: R3HF / RED, arXiv 2411.08302, sec. 3.

    Args:
        prefix_scores: the reward model's score of the prompt and the response up to each token, `[B, T]`, or packed
            `[N]` with `cu_seqlens`; float64, float32, bfloat16 or float16.
        mask: same shape, bool or numeric, nonzero is valid; None means all valid.
        initial: the score of only the prompt, a scalar or one per row `[B]`.
        sequence_rewards: `[B]`, the sparse reward; None means 0.
        mix: share of the dense reward, a scalar or one per row `[B]`.
        cu_seqlens: `[B + 1]` int32 or int64, row offsets of packed tokens.

    Returns:
        float32 (float64 for float64 scores), the shape of `prefix_scores`, in their units; 0 at masked positions.
        Constants to autograd.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, bad offsets.

    Example:
        >>> import torch, segkernel
        >>> segkernel.redistribute(torch.tensor([[0.5, 0.75, 0.25]]), initial=0.25)
        tensor([[ 0.2500,  0.2500, -0.5000]])
    """
    prefix_scores, mask, cu_seqlens = _tensors.tokens("prefix_scores", prefix_scores, mask, cu_seqlens)
    initial_value, row_initial = _tensors.per_row("initial", initial, prefix_scores, cu_seqlens)
    mix_value, row_mix = _tensors.per_row("mix", mix, prefix_scores, cu_seqlens)
    if sequence_rewards is not None:
        _tensors.tensor("sequence_rewards", sequence_rewards, _tensors.FLOATS | _tensors.INTEGERS, "real")
        _, sequence_rewards = _tensors.per_row("sequence_rewards", sequence_rewards, prefix_scores, cu_seqlens)
    rewards: Tensor = ops.redistribute.default(
        prefix_scores, mask, initial_value, row_initial, sequence_rewards, mix_value, row_mix, cu_seqlens
    )
    return rewards


no_gradient("redistribute")


@register_fake("redistribute")
def _(
    prefix_scores: Tensor,
    mask: Tensor | None,
    initial: float,
    row_initial: Tensor | None,
    sequence_rewards: Tensor | None,
    mix: float,
    row_mix: Tensor | None,
    cu_seqlens: Tensor | None,
) -> Tensor:
    return torch.empty_like(prefix_scores, dtype=_tensors.compute_dtype(prefix_scores))
