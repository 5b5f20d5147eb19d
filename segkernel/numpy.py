"""The scan operators on NumPy arrays: no torch, no copies of C-contiguous arrays, the GIL released while they run.

The functions take the same arguments and mean the same as their namesakes in `segkernel`, with `offsets` (Arrow's
list offsets, int32 or int64 `[B + 1]`) in place of `cu_seqlens`. Scores may be float64, float32, float16 or bfloat16
(`ml_dtypes.bfloat16`). Everything runs on the calling thread.

Example:
    >>> import numpy as np
    >>> import segkernel.numpy as sk
    >>> rewards = np.array([0.9, 0.8, -0.7, 0.1], dtype=np.float32)
    >>> sk.segment(rewards, delta=0.5, sequence_sign=1.0, offsets=np.array([0, 3, 4])).ids
    array([0, 0, 1, 0], dtype=int32)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkernel import _numpy
from segkernel._enums import REDUCE, SEGMENT_REDUCTIONS

__all__ = ["Segments", "detect_pivots", "gae", "hysteresis", "redistribute", "segment", "segment_by_entropy"]

Array = NDArray[Any]
PerRow = float | Array

_FLOATS = ("float64", "float32", "float16", "bfloat16")


class Segments(NamedTuple):
    """`segkernel.Segments`, in NumPy arrays."""

    ids: Array
    counts: Array
    lengths: Array
    rewards: Array
    signs: Array
    mask: Array | None


def detect_pivots(
    rewards: Array, mask: Array | None = None, *, threshold: PerRow, offsets: Array | None = None
) -> Array:
    """Marks the tokens whose reward differs from the previous valid token's by more than `threshold`.

    See `segkernel.detect_pivots`. Returns bool, the shape of `rewards`.
    """
    tokens = _Tokens("rewards", rewards, mask, offsets)
    pivots = tokens.empty(np.bool_)
    threshold_pair = tokens.per_row("threshold", threshold)
    _numpy.detect_pivots(*tokens.arguments, *threshold_pair, tokens.offsets, pivots)
    return pivots


def hysteresis(
    rewards: Array,
    mask: Array | None = None,
    *,
    low: PerRow,
    high: PerRow,
    initial: int | Array = 0,
    hold: bool = True,
    offsets: Array | None = None,
) -> Array:
    """Classifies each token as +1, 0 or -1 with a Schmitt trigger.

    See `segkernel.hysteresis`. Returns int8, the shape of `rewards`.
    """
    tokens = _Tokens("rewards", rewards, mask, offsets)
    states = tokens.empty(np.int8)
    _numpy.hysteresis(
        *tokens.arguments,
        *tokens.per_row("low", low),
        *tokens.per_row("high", high),
        *tokens.state("initial", initial),
        hold,
        tokens.offsets,
        states,
    )
    return states


def segment(
    rewards: Array,
    mask: Array | None = None,
    *,
    pivot_threshold: PerRow | None = None,
    baseline: PerRow = 0.0,
    delta: PerRow | None = None,
    hold: bool = True,
    initial: int | Array = 0,
    reduce: str = "mean",
    sequence_sign: PerRow | None = None,
    keep_neutral: bool = False,
    offsets: Array | None = None,
    max_segments: int | None = None,
) -> Segments:
    """Cuts each row of token rewards into segments, in one pass. See `segkernel.segment`."""
    tokens = _Tokens("rewards", rewards, mask, offsets)
    if pivot_threshold is None and delta is None:
        raise ValueError("segment: expected pivot_threshold, delta or both, got neither")
    if reduce not in SEGMENT_REDUCTIONS:
        raise ValueError(f"reduce: expected one of {', '.join(map(repr, SEGMENT_REDUCTIONS))}, got {reduce!r}")
    if max_segments is not None and (offsets is not None or max_segments < 0):
        raise ValueError(f"max_segments: expected >= 0, and None with offsets, got {max_segments!r}")
    room = tokens.shape
    if max_segments:
        room = (tokens.rows, max_segments)
    ids = tokens.empty(np.int32)
    counts = np.empty(tokens.rows, np.int32)
    lengths, segment_rewards, signs = np.empty(room, np.int32), np.empty(room, np.float32), np.empty(room, np.int8)
    loss_mask = None if sequence_sign is None else tokens.empty(np.bool_)
    _numpy.segment(
        *tokens.arguments,
        *tokens.per_row("pivot_threshold", np.inf if pivot_threshold is None else pivot_threshold),
        *tokens.per_row("baseline", baseline),
        delta is not None,
        *tokens.per_row("delta", 0.0 if delta is None else delta),
        hold,
        *tokens.state("initial", initial),
        REDUCE[reduce],
        *tokens.per_row("sequence_sign", 0.0 if sequence_sign is None else sequence_sign, np.float64),
        keep_neutral,
        tokens.offsets,
        ids,
        counts,
        lengths,
        segment_rewards,
        signs,
        loss_mask,
    )
    return Segments(ids, counts, lengths, segment_rewards, signs, loss_mask)


def segment_by_entropy(
    entropy: Array,
    mask: Array | None = None,
    *,
    threshold: PerRow,
    min_length: int = 1,
    offsets: Array | None = None,
) -> tuple[Array, Array]:
    """Starts a segment at tokens of high entropy. See `segkernel.segment_by_entropy`. Returns `(ids, counts)`."""
    tokens = _Tokens("entropy", entropy, mask, offsets)
    if min_length < 1:
        raise ValueError(f"min_length: expected >= 1, got {min_length!r}")
    ids = tokens.empty(np.int32)
    counts = np.empty(tokens.rows, np.int32)
    threshold_pair = tokens.per_row("threshold", threshold)
    _numpy.segment_by_entropy(*tokens.arguments, *threshold_pair, min_length, tokens.offsets, ids, counts)
    return ids, counts


def redistribute(
    prefix_scores: Array,
    mask: Array | None = None,
    *,
    initial: PerRow = 0.0,
    sequence_rewards: Array | None = None,
    mix: PerRow = 1.0,
    offsets: Array | None = None,
) -> Array:
    """Rewards each token with what it adds to the score of the prefix.

    See `segkernel.redistribute`. Returns float32 (float64 for float64 scores), the shape of `prefix_scores`.
    """
    tokens = _Tokens("prefix_scores", prefix_scores, mask, offsets)
    rewards = tokens.empty(tokens.compute)
    sparse = None
    if sequence_rewards is not None:
        sparse = tokens.per_row("sequence_rewards", np.asarray(sequence_rewards))[1]
    _numpy.redistribute(
        *tokens.arguments,
        *tokens.per_row("initial", initial),
        sparse,
        *tokens.per_row("mix", mix),
        tokens.offsets,
        rewards,
    )
    return rewards


def gae(
    rewards: Array,
    values: Array,
    mask: Array | None = None,
    *,
    gamma: PerRow = 1.0,
    lam: PerRow = 0.95,
    offsets: Array | None = None,
) -> tuple[Array, Array]:
    """Advantages and returns over the valid tokens of each row. See `segkernel.gae`."""
    common = np.promote_types(np.asarray(rewards).dtype, np.asarray(values).dtype)
    tokens = _Tokens("rewards", np.asarray(rewards).astype(common, copy=False), mask, offsets)
    value_tokens = _Tokens("values", np.asarray(values).astype(common, copy=False), None, offsets)
    if value_tokens.shape != tokens.shape:
        raise ValueError(f"values: expected {list(tokens.shape)} like rewards, got {_describe(values)}")
    advantages, returns = tokens.empty(tokens.compute), tokens.empty(tokens.compute)
    dtype, reward_data, valid = tokens.arguments
    _numpy.gae(
        dtype,
        reward_data,
        value_tokens.arguments[1],
        valid,
        *tokens.per_row("gamma", gamma),
        *tokens.per_row("lam", lam),
        tokens.offsets,
        advantages,
        returns,
    )
    return advantages, returns


class _Tokens:
    """One value per token, padded `[B, T]` or packed `[N]`, checked and as the extension takes it."""

    def __init__(self, name: str, values: Array, mask: Array | None, offsets: Array | None) -> None:
        if not isinstance(values, np.ndarray) or values.dtype.name not in _FLOATS:
            raise TypeError(f"{name}: expected an array of {', '.join(_FLOATS)}, got {_describe(values)}")
        if values.ndim != (2 if offsets is None else 1):
            raise ValueError(f"{name}: expected [B, T], or [N] together with offsets, got {_describe(values)}")
        self.shape = values.shape
        self.offsets = None
        self.rows = values.shape[0]
        if offsets is not None:
            if not isinstance(offsets, np.ndarray) or offsets.dtype not in (np.int32, np.int64):
                raise TypeError(f"offsets: expected an int32 or int64 array, got {_describe(offsets)}")
            if offsets.ndim != 1 or offsets.size == 0:
                raise ValueError(f"offsets: expected [B + 1], got {_describe(offsets)}")
            self.offsets = np.ascontiguousarray(offsets, np.int64)
            self.rows = offsets.size - 1
        if mask is not None:
            mask = np.asarray(mask)
            if mask.dtype.kind not in "biuf":
                raise TypeError(f"mask: expected a bool or numeric array, got {_describe(mask)}")
            if mask.shape != values.shape:
                raise ValueError(f"mask: expected {list(values.shape)} like {name}, got {_describe(mask)}")
            mask = np.ascontiguousarray(mask if mask.dtype == np.bool_ else mask != 0)
        self.compute = np.dtype(np.float64 if values.dtype == np.float64 else np.float32)
        data = np.ascontiguousarray(values)
        self.arguments = (values.dtype.name, data.view(np.uint16) if values.dtype.itemsize == 2 else data, mask)

    def empty(self, dtype: Any) -> Array:
        return np.empty(self.shape, dtype)

    def per_row(self, name: str, value: PerRow, dtype: Any = None) -> tuple[float, Array | None]:
        if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
            return float(value), None
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "iuf":
            raise TypeError(f"{name}: expected a number or an array [B], got {_describe(value)}")
        if value.shape != (self.rows,):
            raise ValueError(f"{name}: expected a number or an array [{self.rows}], got {_describe(value)}")
        return 0.0, np.ascontiguousarray(value, dtype or self.compute)

    def state(self, name: str, value: int | Array) -> tuple[int, Array | None]:
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "iu":
                raise TypeError(f"{name}: expected -1, 0 or +1, or an integer array [B], got {_describe(value)}")
            # Clipped first: 256 must not pass as 0.
            return 0, self.per_row(name, np.clip(value, -2, 2), np.int8)[1]
        if value not in (-1, 0, 1):
            raise ValueError(f"{name}: expected -1, 0 or +1, got {value!r}")
        return int(value), None


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"{type(value).__name__} {value!r}"
