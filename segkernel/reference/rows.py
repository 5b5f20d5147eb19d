"""What a row is: padded `[B, T]` or packed `[N]`, masked. References look at a row's valid tokens alone."""

from itertools import pairwise

import torch
from torch import Tensor


def compute_dtype(scores: Tensor) -> torch.dtype:
    """float64 for float64, float32 for everything else."""
    return torch.float64 if scores.dtype == torch.float64 else torch.float32


def row_bounds(values: Tensor, cu_seqlens: Tensor | None) -> list[tuple[int, int]]:
    """For every row, where it starts and ends in `values.flatten()`."""
    if cu_seqlens is not None:
        return list(pairwise(cu_seqlens.tolist()))
    B, T = values.shape
    return [(b * T, (b + 1) * T) for b in range(B)]


def valid_tokens(values: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> list[Tensor]:
    """For every row, the positions of its valid tokens in `values.flatten()`, in order."""
    valid = torch.ones_like(values, dtype=torch.bool) if mask is None else mask != 0
    valid = valid.flatten()
    return [start + valid[start:end].nonzero().flatten() for start, end in row_bounds(values, cu_seqlens)]


def per_row(value: float | Tensor, rows: int, like: Tensor) -> Tensor:
    """A float or a `[B]` tensor, as `[B]` in the dtype and on the device of `like`."""
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(rows)
