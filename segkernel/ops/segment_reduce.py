"""Reduction of token values over segments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel._enums import BROADCAST, REDUCE
from segkernel._library import ops, register_fake


def segment_reduce(
    values: Tensor,
    ids: Tensor,
    num_segments: int,
    *,
    reduce: str = "sum",
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Reduces token values to one value per segment.

    Args:
        values: one per token, `[B, T]`, or packed `[N]` with `cu_seqlens`; float64, float32, bfloat16 or float16.
            Values of tokens that belong to no segment are never used.
        ids: integer, same shape: the token's segment in its row, as `segment` returns them. Tokens with a negative id
            or one of at least `num_segments` are left out.
        num_segments: `S`.
        reduce: "sum", "mean", "max", "min", "last" or "logsumexp". Differentiable for all but "max" and "min".
        cu_seqlens: `[B + 1]` int32 or int64, row offsets of packed tokens.

    Returns:
        `[B, S]`, float32 (float64 for float64 values); 0 for a segment without tokens. The summation order is fixed,
        so that results do not depend on the number of threads or on the other rows.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, an unknown `reduce`, bad offsets.

    Example:
        >>> import torch, segkernel
        >>> values, ids = torch.tensor([[1.0, 2.0, 4.0, 9.0]]), torch.tensor([[0, 0, 1, -1]])
        >>> segkernel.segment_reduce(values, ids, 3)
        tensor([[3., 4., 0.]])
    """
    values, _, cu_seqlens = _tensors.tokens("values", values, None, cu_seqlens)
    ids = _tensors.segment_ids(ids, "values", values, values.shape, cu_seqlens)
    _validate.integer("num_segments", num_segments, at_least=0)
    _validate.one_of("reduce", reduce, REDUCE)
    reduced: Tensor = ops.segment_reduce.default(values, ids, num_segments, REDUCE[reduce], cu_seqlens)
    return reduced


@register_fake("segment_reduce")
def _(values: Tensor, ids: Tensor, num_segments: int, reduce: int, cu_seqlens: Tensor | None) -> Tensor:
    rows = _tensors.row_count(values, cu_seqlens)
    return values.new_empty((rows, num_segments), dtype=_tensors.compute_dtype(values))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, ids, ctx.num_segments, ctx.reduce, cu_seqlens = inputs
    ctx.dtype = values.dtype
    is_logsumexp = ctx.reduce == REDUCE["logsumexp"]
    ctx.save_for_backward(ids, cu_seqlens, values if is_logsumexp else None, output if is_logsumexp else None)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
    ids, cu_seqlens, values, reduced = ctx.saved_tensors
    grad = grad.contiguous()

    def to_tokens(segment_values: Tensor, how: str) -> Tensor:
        token_values: Tensor = ops.segment_broadcast.default(segment_values, ids, BROADCAST[how], cu_seqlens)
        return token_values

    if ctx.reduce == REDUCE["sum"]:
        grad_values = to_tokens(grad, "repeat")
    elif ctx.reduce == REDUCE["mean"]:
        grad_values = to_tokens(grad, "split")
    elif ctx.reduce == REDUCE["last"]:
        grad_values = to_tokens(grad, "last")
    elif ctx.reduce == REDUCE["logsumexp"]:
        # d logsumexp / d v_t = exp(v_t - logsumexp); 0 for tokens outside all segments and in segments of only -inf.
        in_segment = (ids >= 0) & (ids < ctx.num_segments)
        shifted = torch.where(in_segment, values, -torch.inf) - to_tokens(reduced.clamp(min=-3e38), "repeat")
        grad_values = to_tokens(grad, "repeat") * shifted.exp()
    else:
        raise RuntimeError('segment_reduce: "max" and "min" have no derivative; use "sum", "mean" or "logsumexp"')
    return grad_values.to(ctx.dtype), None, None, None, None


torch.library.register_autograd("segkernel::segment_reduce", _backward, setup_context=_save)
