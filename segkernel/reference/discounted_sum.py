"""Discounted sums of following values: rewards to go."""

import torch
from torch import Tensor

from segkernel.reference.rows import compute_dtype, per_row, valid_tokens


def discounted_sum(
    values: Tensor,
    mask: Tensor | None = None,
    *,
    discount: float | Tensor,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    rows = valid_tokens(values, mask, cu_seqlens)
    x = values.to(compute_dtype(values)).flatten()
    discount = per_row(discount, len(rows), like=x)  # [B]

    sums = torch.zeros_like(x)
    for b, tokens in enumerate(rows):
        following = torch.zeros((), dtype=x.dtype, device=x.device)
        for t in tokens.flip(0):
            following = x[t] + discount[b] * following
            sums[t] = following
    return sums.view(values.shape)
