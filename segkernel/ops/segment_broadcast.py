"""Broadcast of segment values to tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel._enums import BROADCAST, REDUCE
from segkernel._library import ops, register_fake

# Adjoint of each broadcast mode.
_ADJOINT = {
    BROADCAST["repeat"]: REDUCE["sum"],
    BROADCAST["split"]: REDUCE["mean"],
    BROADCAST["last"]: REDUCE["last"],
}


def segment_broadcast(
    values: Tensor,
    ids: Tensor,
    *,
    how: str = "repeat",
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Broadcasts segment values to their tokens. Differentiable.

    `how="split"` is the interpolation of Segmenting Text and Learning Their Rewards (arXiv 2501.02790, sec. 3.3).

    Args:
        values: one per segment, `[B, S]`; float64, float32, bfloat16 or float16.
        ids: integer, `[B, T]`, or packed `[N]` with `cu_seqlens`: the token's segment in its row, as `segment`
            returns them. Tokens with a negative id or one of at least `S` get 0.
        how: "repeat": every token gets the value; "split": the value divided by the segment's length, so that the
            sum is preserved; "last": the segment's last token gets it, the others 0.
        cu_seqlens: `[B + 1]` int32 or int64, row offsets of packed tokens.

    Returns:
        float32 (float64 for float64 values), the shape of `ids`.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, an unknown `how`, bad offsets.

    Example:
        >>> import torch, segkernel
        >>> values, ids = torch.tensor([[6.0, 1.0]]), torch.tensor([[0, 0, -1, 1]])
        >>> segkernel.segment_broadcast(values, ids, how="split")
        tensor([[3., 3., 0., 1.]])
    """
    _tensors.tensor("values", values)
    if values.dim() != 2:
        raise ValueError(f"values: expected [B, S], got {_validate.describe(values)}")
    if not isinstance(ids, Tensor):
        raise TypeError(f"ids: expected an integer tensor, got {_validate.describe(ids)}")
    if cu_seqlens is not None:
        _tensors.offsets(cu_seqlens, "ids", ids)
    elif ids.dim() != 2:
        raise ValueError(f"ids: expected [B, T], or [N] together with cu_seqlens, got {_validate.describe(ids)}")
    ids = _tensors.segment_ids(ids, "values", values, ids.shape, cu_seqlens)
    if values.shape[0] != _tensors.row_count(ids, cu_seqlens):
        name, given = ("ids", ids) if cu_seqlens is None else ("cu_seqlens", cu_seqlens)
        raise ValueError(f"{name}: expected {values.shape[0]} rows like values, got {_validate.describe(given)}")
    _validate.one_of("how", how, BROADCAST)
    broadcast: Tensor = ops.segment_broadcast.default(values.contiguous(), ids, BROADCAST[how], cu_seqlens)
    return broadcast


@register_fake("segment_broadcast")
def _(values: Tensor, ids: Tensor, how: int, cu_seqlens: Tensor | None) -> Tensor:
    return torch.empty_like(ids, dtype=_tensors.compute_dtype(values))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, ids, ctx.how, cu_seqlens = inputs
    ctx.dtype = values.dtype
    ctx.num_segments = values.shape[1]
    ctx.save_for_backward(ids, cu_seqlens)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    ids, cu_seqlens = ctx.saved_tensors
    reduce = _ADJOINT[ctx.how]
    grad_values = ops.segment_reduce.default(grad.contiguous(), ids, ctx.num_segments, reduce, cu_seqlens)
    return grad_values.to(ctx.dtype), None, None, None


torch.library.register_autograd("segkernel::segment_broadcast", _backward, setup_context=_save)
