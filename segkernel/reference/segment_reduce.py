"""One number per segment from one number per token."""

from collections.abc import Callable

import torch
from torch import Tensor

from segkernel.reference.rows import compute_dtype, row_bounds

REDUCE: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": torch.sum,
    "mean": torch.mean,
    "max": torch.amax,
    "min": torch.amin,
    "last": lambda values: values[-1],
    "logsumexp": lambda values: values.logsumexp(0),
}


def segment_reduce(
    values: Tensor,
    ids: Tensor,
    num_segments: int,
    *,
    reduce: str = "sum",
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    rows = row_bounds(ids, cu_seqlens)
    v, ids = values.to(compute_dtype(values)).flatten(), ids.flatten()
    reduced = v.new_zeros(len(rows), num_segments)
    for b, (start, end) in enumerate(rows):
        for k in range(num_segments):
            members = v[start:end][ids[start:end] == k]
            if len(members) > 0:
                reduced[b, k] = REDUCE[reduce](members)
    return reduced
