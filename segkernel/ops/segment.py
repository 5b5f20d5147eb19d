"""Segmentation of token rewards and the adaptive loss mask."""

from __future__ import annotations

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel._enums import REDUCE
from segkernel._library import no_gradient, ops, register_fake
from segkernel.types import Segments

_segment = ops.segment.default


def segment(
    rewards: Tensor,
    mask: Tensor | None = None,
    *,
    pivot_threshold: float | Tensor | None = None,
    baseline: float | Tensor = 0.0,
    delta: float | Tensor | None = None,
    hold: bool = True,
    initial: int | Tensor = 0,
    reduce: str = "mean",
    sequence_sign: float | Tensor | None = None,
    keep_neutral: bool = False,
    cu_seqlens: Tensor | None = None,
    max_segments: int | None = None,
) -> Segments:
    """Splits each row of token rewards into segments, in one pass.

    A segment starts at the first valid token, at a pivot (`pivot_threshold`, see `detect_pivots`), and where the
    Schmitt trigger at `baseline - delta`, `baseline + delta` changes state (`delta`, see `hysteresis`). At least one
    of the two must be given. With `sequence_sign` the result carries the adaptive loss mask of Adaptive Segment-level
    Reward (arXiv 2411.00809): a token is kept when the sign of its segment agrees with that of the whole sequence.
    For preference pairs pass +1 for the chosen and -1 for the rejected response.

    Args:
        rewards: token rewards, `[B, T]`, or packed `[N]` with `cu_seqlens`; float64, float32, bfloat16 or float16.
            Compared and reduced in float32 (float64 for float64). The summation order of a row is fixed on one
            processor and may differ between processors.
        mask: same shape, bool or numeric, nonzero is valid; None means all valid.
        pivot_threshold: `>= 0`, a scalar or one per row `[B]`, in units of reward; None finds no pivots.
        baseline: center of the trigger's neutral zone; without a trigger, the value that segment rewards are compared
            with.
        delta: `>= 0`, half the width of the neutral zone, a scalar or one per row `[B]`; None runs no trigger.
        hold, initial: as in `hysteresis`.
        reduce: reduction of a segment's token rewards: "mean", "sum", "last", "max" or "min".
        sequence_sign: a scalar or one per row `[B]`; only the sign is used; None computes no mask. A row
            with sign 0 keeps at most neutral segments.
        keep_neutral: whether the mask keeps segments of sign 0.
        cu_seqlens: `[B + 1]` int32 or int64, row offsets of packed tokens.
        max_segments: `S >= 0`, number of segments per row in the `[B, S]` fields; None or 0 means `T`. Padded only.

    Returns:
        `Segments`. Their rewards carry no gradient; `segment_reduce` over the ids does.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: neither `pivot_threshold` nor `delta`, a negative one, an unknown `reduce`, `max_segments` with
            packed rows, shapes or devices that don't match, bad offsets.

    Example:
        >>> import torch, segkernel
        >>> rewards = torch.tensor([[0.9, 0.8, 0.1, -0.7, -0.9]])
        >>> segments = segkernel.segment(rewards, delta=0.5, sequence_sign=+1)
        >>> segments.ids
        tensor([[0, 0, 0, 1, 1]], dtype=torch.int32)
        >>> segments.signs[:, :2]
        tensor([[ 1, -1]], dtype=torch.int8)
        >>> segments.mask
        tensor([[ True,  True,  True, False, False]])
    """
    rewards, mask, cu_seqlens = _tensors.tokens("rewards", rewards, mask, cu_seqlens)
    _validate.segment_options(
        pivot_threshold,
        delta,
        hold=hold,
        reduce=reduce,
        keep_neutral=keep_neutral,
        max_segments=max_segments,
        offsets_name="cu_seqlens",
        packed=cu_seqlens is not None,
    )
    pivot_value, row_pivot = _tensors.optional_per_row("pivot_threshold", pivot_threshold, rewards, cu_seqlens)
    delta_value, row_delta = _tensors.optional_per_row("delta", delta, rewards, cu_seqlens)
    baseline_value, row_baseline = _tensors.per_row("baseline", baseline, rewards, cu_seqlens)
    initial_value, row_initial = _tensors.states("initial", initial, rewards, cu_seqlens)
    sign_value, row_sign = _tensors.optional_per_row(
        "sequence_sign", sequence_sign, rewards, cu_seqlens, dtype=torch.float64
    )
    _tensors.not_negative("pivot_threshold", None, row_pivot)
    _tensors.not_negative("delta", None, row_delta)
    outputs = _segment(
        rewards,
        mask,
        pivot_value,
        row_pivot,
        baseline_value,
        row_baseline,
        delta_value,
        row_delta,
        hold,
        initial_value,
        row_initial,
        REDUCE[reduce],
        sign_value,
        row_sign,
        keep_neutral,
        cu_seqlens,
    )
    segments = Segments(*outputs)
    if max_segments:
        lengths, reduced, signs = (_with_columns(field, max_segments) for field in segments[2:5])
        segments = segments._replace(lengths=lengths, rewards=reduced, signs=signs)
    return segments if sequence_sign is not None else segments._replace(mask=None)


def _with_columns(field: Tensor, columns: int) -> Tensor:
    """`[B, T]` cut or filled up with zeros to `[B, columns]`."""
    missing = columns - field.shape[1]
    return torch.nn.functional.pad(field, (0, missing)) if missing > 0 else field[:, :columns].contiguous()


no_gradient("segment")


@register_fake("segment")
def _(
    rewards: Tensor,
    mask: Tensor | None,
    pivot_threshold: float | None,
    row_pivot_threshold: Tensor | None,
    baseline: float,
    row_baseline: Tensor | None,
    delta: float | None,
    row_delta: Tensor | None,
    hold: bool,
    initial: int,
    row_initial: Tensor | None,
    reduce: int,
    sequence_sign: float | None,
    row_sequence_sign: Tensor | None,
    keep_neutral: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = _tensors.row_count(rewards, cu_seqlens)
    has_mask = sequence_sign is not None or row_sequence_sign is not None
    return (
        torch.empty_like(rewards, dtype=torch.int32),
        rewards.new_empty((rows,), dtype=torch.int32),
        torch.empty_like(rewards, dtype=torch.int32),
        torch.empty_like(rewards, dtype=torch.float32),
        torch.empty_like(rewards, dtype=torch.int8),
        rewards.new_empty(rewards.shape if has_mask else (0,), dtype=torch.bool),
    )
