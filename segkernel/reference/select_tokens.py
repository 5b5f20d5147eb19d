"""Selection of the tokens with the largest or smallest values."""

import math

import torch
from torch import Tensor

from segkernel.reference.rows import valid_tokens


def rounded_share(fraction: float, n: int, rounding: str) -> int:
    """`fraction * n` rounded; within the rounding of `fraction` to float32 it counts as an integer."""
    product = fraction * n
    if abs(product - round(product)) <= min(product * 2**-23, 2**-10):
        return round(product)
    return math.ceil(product) if rounding == "ceil" else math.floor(product)


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
    rows = valid_tokens(values, mask, cu_seqlens)
    if scope == "batch":
        rows = [torch.cat(rows)] if rows else []
    size = torch.as_tensor(fraction, dtype=torch.float64) if count is None else torch.as_tensor(count)

    selected = torch.zeros_like(values, dtype=torch.bool).flatten()
    for share_or_count, tokens in zip(size.expand(len(rows)).tolist(), rows, strict=True):
        k = rounded_share(share_or_count, len(tokens), rounding) if count is None else share_or_count
        row_values = values.flatten()[tokens]
        is_nan = row_values.isnan()
        order = row_values[~is_nan].argsort(descending=largest, stable=True)
        ranked = torch.cat([tokens[~is_nan][order], tokens[is_nan]])
        selected[ranked[:k]] = True
    return selected.view(values.shape)
