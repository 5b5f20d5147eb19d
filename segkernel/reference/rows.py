"""Rows of tokens: padded `[B, T]` or packed `[N]`, with a mask. The references read only valid tokens."""

from itertools import pairwise

import torch
from torch import Tensor


def compute_dtype(scores: Tensor) -> torch.dtype:
    """float64 for float64, float32 for everything else."""
    return torch.float64 if scores.dtype == torch.float64 else torch.float32


def row_bounds(values: Tensor, cu_seqlens: Tensor | None) -> list[tuple[int, int]]:
    """Start and end of every row in `values.flatten()`."""
    if cu_seqlens is not None:
        return list(pairwise(cu_seqlens.tolist()))
    B, T = values.shape
    return [(b * T, (b + 1) * T) for b in range(B)]


def valid_tokens(values: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> list[Tensor]:
    """Positions of every row's valid tokens in `values.flatten()`, in order."""
    valid = torch.ones_like(values, dtype=torch.bool) if mask is None else mask != 0
    valid = valid.flatten()
    return [start + valid[start:end].nonzero().flatten() for start, end in row_bounds(values, cu_seqlens)]


def per_row(value: float | Tensor, rows: int, like: Tensor) -> Tensor:
    """Scalar or `[B]` tensor as `[B]` in the dtype and on the device of `like`."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(rows)
