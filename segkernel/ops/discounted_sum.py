"""Discounted sums of following values: rewards to go."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segkernel import _tensors
from segkernel._library import ops, register_fake


def discounted_sum(
    values: Tensor,
    mask: Tensor | None = None,
    *,
    discount: float | Tensor,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Discounted sum of each valid token's value and those after it. Differentiable.

    `y_t = x_t + discount * y_next`, where "next" is the next valid token of the row; `y_next` is 0 after the last one.
    The sum of rewards is the reward-to-go: the return of REINFORCE, REINFORCE++ (arXiv 2501.03262) and PRIME (arXiv
    2502.01456).

    Args:
        values: one per token, `[B, T]`, or packed `[N]` with `cu_seqlens`; float64, float32, bfloat16 or float16.
        mask: same shape, bool or numeric, nonzero is valid; None means all valid.
        discount: a scalar or one per row `[B]`. It takes no gradient.
        cu_seqlens: `[B + 1]` int32 or int64, row offsets of packed tokens.

    Returns:
        float32 (float64 for float64 values), the shape and unit of `values`; 0 at masked positions.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, a discount that requires grad, bad offsets.

    Example:
        >>> import torch, segkernel
        >>> segkernel.discounted_sum(torch.tensor([[0.0, 1.0, 2.0]]), discount=0.5)
        tensor([[1., 2., 2.]])
    """
    values, mask, cu_seqlens = _tensors.tokens("values", values, mask, cu_seqlens)
    discount_value, row_discount = _tensors.per_row("discount", discount, values, cu_seqlens)
    if row_discount is not None:
        _tensors.constant("discount", row_discount)
    sums: Tensor = ops.discounted_sum.default(values, mask, discount_value, row_discount, False, cu_seqlens)
    return sums


@register_fake("discounted_sum")
def _(
    values: Tensor,
    mask: Tensor | None,
    discount: float,
    row_discount: Tensor | None,
    adjoint: bool,
    cu_seqlens: Tensor | None,
) -> Tensor:
    return torch.empty_like(values, dtype=_tensors.compute_dtype(values))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    values, mask, ctx.discount, row_discount, ctx.adjoint, cu_seqlens = inputs
    ctx.dtype = values.dtype
    ctx.save_for_backward(mask, row_discount, cu_seqlens)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
    mask, row_discount, cu_seqlens = ctx.saved_tensors
    grad_values = ops.discounted_sum.default(
        grad.contiguous(), mask, ctx.discount, row_discount, not ctx.adjoint, cu_seqlens
    )
    return grad_values.to(ctx.dtype), None, None, None, None, None


torch.library.register_autograd("segkernel::discounted_sum", _backward, setup_context=_save)
