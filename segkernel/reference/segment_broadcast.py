"""Broadcast of segment values to tokens."""

from torch import Tensor

from segkernel.reference.rows import compute_dtype, row_bounds


def segment_broadcast(
    values: Tensor,
    ids: Tensor,
    *,
    how: str = "repeat",
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    v, flat_ids = values.to(compute_dtype(values)), ids.flatten()
    broadcast = v.new_zeros(ids.numel())
    for b, (start, end) in enumerate(row_bounds(ids, cu_seqlens)):
        for k in range(values.shape[1]):
            members = start + (flat_ids[start:end] == k).nonzero().flatten()
            if how == "repeat":
                broadcast[members] = v[b, k]
            elif how == "split":
                broadcast[members] = v[b, k] / max(1, len(members))
            elif how == "last":
                broadcast[members[-1:]] = v[b, k]
    return broadcast.view(ids.shape)
