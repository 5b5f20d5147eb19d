"""Segments from a mask."""

import torch
from torch import Tensor

from segkernel.reference.rows import row_bounds


def segment_by_mask(mask: Tensor, *, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor]:
    valid = (mask != 0).flatten()
    rows = row_bounds(mask, cu_seqlens)
    ids = torch.full(valid.shape, -1, dtype=torch.int32, device=mask.device)
    counts = torch.zeros(len(rows), dtype=torch.int32, device=mask.device)
    for b, (start, end) in enumerate(rows):
        row = valid[start:end].int()
        starts = row.diff(prepend=row.new_zeros(1)) == 1
        run = starts.cumsum(0)
        ids[start:end] = torch.where(row == 1, run - 1, -1).int()
        counts[b] = starts.sum()
    return ids.view(mask.shape), counts
