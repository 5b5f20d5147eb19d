"""Selection of the tokens with the largest or smallest values."""

from __future__ import annotations

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel._debug import checks_values
from segkernel._library import ops, register_fake


def select_tokens(
    values: Tensor,
    mask: Tensor | None = None,
    *,
    fraction: float | Tensor | None = None,
    count: int | Tensor | None = None,
    largest: bool = True,
    scope: str = "row",
    rounding: str = "ceil",
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    """Selects exactly `k` of the `n` valid tokens of each row, or of the whole batch, those with the largest values.

    `k = ceil(fraction * n)`, or `min(count, n)`. One operator for the token selectors of the literature: tokens of high
    entropy (80/20 rule, arXiv 2506.01939), SePO (arXiv 2408.13518), selective language modeling (Rho-1, arXiv
    2404.07965), KL-Cov (arXiv 2505.22617), and, with random values, their control. The operator never waits for the
    device, and selects the same tokens on every device.

    The product `fraction * n` is computed in float64. If it differs from an integer by at most the rounding of
    `fraction` to float32 (`2^-23` of the product, and at most `2^-10`), it is taken as that integer, so that
    `fraction=0.07` selects 7 of 100 tokens although `0.07 * 100` is 7.000000000000001.

    Args:
        values: what tokens are ranked by, `[B, T]`, or packed `[N]` with `cu_seqlens`; float64, float32, bfloat16 or
            float16. Of equal values (`-0.0` equals `0.0`) the earlier token is selected. A NaN is selected after all
            other values, whatever `largest` is.
        mask: same shape, bool or numeric, nonzero is valid; None means all valid.
        fraction: share of the valid tokens, in [0, 1], a scalar or one per row `[B]`.
        count: number of tokens, `>= 0`, an integer or one per row `[B]`. Either `fraction` or `count` is given.
        largest: True selects the largest values, False the smallest.
        scope: "row", `k` tokens of each row; "batch", `k` tokens of all rows together, for which `fraction` and `count`
            are scalars, and tokens of earlier rows are earlier.
        rounding: "ceil" or "floor" of `fraction * n`.
        cu_seqlens: `[B + 1]` int32 or int64, row offsets of packed tokens.

    Returns:
        bool, the shape of `values`: True at the selected tokens, False at all others and at masked positions.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, a fraction or count out of range, both or none of them, bad
            offsets. Values of CUDA tensors are checked only under `segkernel.debug()`; without it a fraction or count
            below its range selects no token, one above it all, and a NaN none.

    Example:
        >>> import torch, segkernel
        >>> entropy = torch.tensor([[0.1, 2.5, 0.3, 1.9, 0.3]])
        >>> segkernel.select_tokens(entropy, fraction=0.4)
        tensor([[False,  True, False,  True, False]])
        >>> segkernel.select_tokens(entropy, count=2, largest=False)
        tensor([[ True, False,  True, False, False]])
    """
    values, mask, cu_seqlens = _tensors.tokens("values", values, mask, cu_seqlens)
    _validate.selection_options(fraction, count, largest=largest, scope=scope, rounding=rounding)
    whole_batch = scope == "batch"
    row_fraction = row_count = None
    if fraction is not None:
        fraction, row_fraction = _fractions(fraction, values, cu_seqlens, whole_batch)
    else:
        count, row_count = _counts(count, values, cu_seqlens, whole_batch)
    selected: Tensor = ops.select_tokens.default(
        values, mask, fraction, row_fraction, count, row_count, largest, whole_batch, rounding == "ceil", cu_seqlens
    )
    return selected


def _fractions(
    fraction: float | Tensor, values: Tensor, cu_seqlens: Tensor | None, whole_batch: bool
) -> tuple[float | None, Tensor | None]:
    """`fraction` as the kernels' pair `(scalar, None)` or `(None, float64 [rows])`."""
    scalar, rows = _per_row("fraction", fraction, values, cu_seqlens, whole_batch, torch.float64)
    if rows is None:
        _validate.share("fraction", scalar)
        return scalar, None
    if checks_values():
        for share in rows.tolist():
            _validate.share("fraction", share)
    return None, rows


def _counts(
    count: int | Tensor | None, values: Tensor, cu_seqlens: Tensor | None, whole_batch: bool
) -> tuple[int | None, Tensor | None]:
    """`count` as the kernels' pair `(scalar, None)` or `(None, int64 [rows])`."""
    if not isinstance(count, Tensor):
        _validate.integer("count", count, at_least=0)
        return count, None
    _tensors.tensor("count", count, _tensors.INTEGERS, "integer")
    _, rows = _per_row("count", count, values, cu_seqlens, whole_batch, torch.int64)
    _tensors.not_negative("count", None, rows)
    return None, rows


def _per_row(
    name: str, value: float | Tensor, values: Tensor, cu_seqlens: Tensor | None, whole_batch: bool, dtype: torch.dtype
) -> tuple[float, Tensor | None]:
    """`_tensors.per_row`, with the whole batch as one row."""
    if whole_batch and isinstance(value, Tensor):
        if value.dim() > 0:
            raise ValueError(f"{name}: expected a number with scope='batch', got {_validate.describe(value)}")
        values, cu_seqlens = values.reshape(1, -1), None
    return _tensors.per_row(name, value, values, cu_seqlens, dtype=dtype)


@register_fake("select_tokens")
def _(
    values: Tensor,
    mask: Tensor | None,
    fraction: float | None,
    row_fraction: Tensor | None,
    count: int | None,
    row_count: Tensor | None,
    largest: bool,
    whole_batch: bool,
    round_up: bool,
    cu_seqlens: Tensor | None,
) -> Tensor:
    return torch.empty_like(values, dtype=torch.bool)
