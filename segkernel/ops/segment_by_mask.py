"""Segments from a mask."""

from __future__ import annotations

import torch
from torch import Tensor

from segkernel import _tensors
from segkernel._library import ops, register_fake


def segment_by_mask(mask: Tensor, *, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Makes each run of valid positions a segment.

    With a mask that excludes prompts and tool output, these are the turns of a dialogue.

    Args:
        mask: `[B, T]`, or packed `[N]` with `cu_seqlens`, bool or numeric; nonzero is valid.
        cu_seqlens: `[B + 1]` int32 or int64, row offsets of packed tokens.

    Returns:
        `(ids, counts)`: int32, the shape of `mask`, index of the position's segment in its row, -1 at masked
        positions; and int32 `[B]`, the number of segments.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, bad offsets.

    Example:
        >>> import torch, segkernel
        >>> ids, counts = segkernel.segment_by_mask(torch.tensor([[0, 1, 1, 0, 0, 1]]))
        >>> ids
        tensor([[-1,  0,  0, -1, -1,  1]], dtype=torch.int32)
        >>> counts
        tensor([2], dtype=torch.int32)
    """
    _tensors.mask_type(mask)
    _tensors.layout("mask", mask, cu_seqlens)
    ids, counts = ops.segment_by_mask.default(_tensors.nonzero(mask), cu_seqlens)
    return ids, counts


@register_fake("segment_by_mask")
def _(mask: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    rows = _tensors.row_count(mask, cu_seqlens)
    return torch.empty_like(mask, dtype=torch.int32), mask.new_empty((rows,), dtype=torch.int32)
