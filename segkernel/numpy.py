"""The scan operators and `select_tokens` on NumPy arrays, without torch.

C-contiguous arrays are not copied; the GIL is released. Arguments, results and errors are those of the functions of the
same name in `segkernel`, with `offsets` (Arrow's list offsets, int32 or int64 `[B + 1]`) in place of `cu_seqlens`.
Scores may be float64, float32, float16 or bfloat16 (`ml_dtypes.bfloat16`). Everything runs on the calling thread.

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

from segkernel import _numpy, _validate
from segkernel._enums import HOLES, REDUCE
from segkernel._validate import describe

__all__ = [
    "Segments",
    "detect_pivots",
    "discounted_sum",
    "gae",
    "hysteresis",
    "redistribute",
    "segment",
    "segment_by_entropy",
    "segment_by_mask",
    "select_tokens",
]

Array = NDArray[Any]
PerRow = float | Array

_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
_INTEGERS = frozenset({"int64", "int32", "int16", "int8", "uint8"})
_NUMERIC = _FLOATS | _INTEGERS | {"uint16", "uint32", "uint64"}


class Segments(NamedTuple):
    """`segkernel.Segments` with NumPy arrays."""

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
    scalar, rows = tokens.per_row("threshold", threshold)
    pivots = tokens.empty(np.bool_)
    _numpy.detect_pivots(*tokens.arguments, scalar, rows, tokens.offsets, pivots)
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
    low_scalar, low_rows = tokens.per_row("low", low)
    high_scalar, high_rows = tokens.per_row("high", high)
    if low_rows is None and high_rows is None:
        _validate.ordered(low_scalar, high_scalar)
    initial_scalar, initial_rows = tokens.state("initial", initial)
    _validate.boolean("hold", hold)
    states = tokens.empty(np.int8)
    _numpy.hysteresis(
        *tokens.arguments,
        low_scalar,
        low_rows,
        high_scalar,
        high_rows,
        initial_scalar,
        initial_rows,
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
    """Splits each row of token rewards into segments, in one pass. See `segkernel.segment`."""
    tokens = _Tokens("rewards", rewards, mask, offsets)
    _validate.segment_options(
        pivot_threshold,
        delta,
        hold=hold,
        reduce=reduce,
        keep_neutral=keep_neutral,
        max_segments=max_segments,
        offsets_name="offsets",
        packed=offsets is not None,
    )
    pivot_scalar, pivot_rows = tokens.per_row("pivot_threshold", np.inf if pivot_threshold is None else pivot_threshold)
    delta_scalar, delta_rows = tokens.per_row("delta", 0.0 if delta is None else delta)
    baseline_scalar, baseline_rows = tokens.per_row("baseline", baseline)
    initial_scalar, initial_rows = tokens.state("initial", initial)
    sign = 0.0 if sequence_sign is None else sequence_sign
    sign_scalar, sign_rows = tokens.per_row("sequence_sign", sign, np.float64)

    segments = Segments(
        ids=tokens.empty(np.int32),
        counts=np.empty(tokens.count, np.int32),
        lengths=tokens.empty(np.int32),
        rewards=tokens.empty(np.float32),
        signs=tokens.empty(np.int8),
        mask=None if sequence_sign is None else tokens.empty(np.bool_),
    )
    _numpy.segment(
        *tokens.arguments,
        pivot_scalar,
        pivot_rows,
        baseline_scalar,
        baseline_rows,
        delta is not None,
        delta_scalar,
        delta_rows,
        hold,
        initial_scalar,
        initial_rows,
        REDUCE[reduce],
        sign_scalar,
        sign_rows,
        keep_neutral,
        tokens.offsets,
        segments.ids,
        segments.counts,
        segments.lengths,
        segments.rewards,
        segments.signs,
        segments.mask,
    )
    if max_segments:
        lengths, reduced, signs = (_with_columns(field, max_segments) for field in segments[2:5])
        segments = segments._replace(lengths=lengths, rewards=reduced, signs=signs)
    return segments


def _with_columns(field: Array, columns: int) -> Array:
    """`[B, T]` cut or filled up with zeros to `[B, columns]`."""
    missing = max(columns - field.shape[1], 0)
    return np.pad(field[:, :columns], ((0, 0), (0, missing)))


def segment_by_entropy(
    entropy: Array,
    mask: Array | None = None,
    *,
    threshold: PerRow,
    min_length: int = 1,
    offsets: Array | None = None,
) -> tuple[Array, Array]:
    """Starts a segment at each token of high entropy. See `segkernel.segment_by_entropy`. Returns `(ids, counts)`."""
    tokens = _Tokens("entropy", entropy, mask, offsets)
    scalar, rows = tokens.per_row("threshold", threshold)
    _validate.integer("min_length", min_length, at_least=1)
    ids, counts = tokens.empty(np.int32), np.empty(tokens.count, np.int32)
    _numpy.segment_by_entropy(*tokens.arguments, scalar, rows, min_length, tokens.offsets, ids, counts)
    return ids, counts


def segment_by_mask(mask: Array, *, offsets: Array | None = None) -> tuple[Array, Array]:
    """Makes each run of valid positions a segment. Returns `(ids, counts)`. See `segkernel.segment_by_mask`.

    Example:
        >>> import numpy as np
        >>> segment_by_mask(np.array([0, 1, 1, 0, 1]), offsets=np.array([0, 5]))
        (array([-1,  0,  0, -1,  1], dtype=int32), array([2], dtype=int32))
    """
    _array("mask", mask, _NUMERIC | {"bool"}, "bool or numeric")
    rows = _Rows("mask", mask, offsets)
    ids, counts = rows.empty(np.int32), np.empty(rows.count, np.int32)
    _numpy.segment_by_mask(_as_bool(mask), rows.offsets, ids, counts)
    return ids, counts


def select_tokens(
    values: Array,
    mask: Array | None = None,
    *,
    fraction: PerRow | None = None,
    count: int | Array | None = None,
    largest: bool = True,
    scope: str = "row",
    rounding: str = "ceil",
    offsets: Array | None = None,
) -> Array:
    """Selects the tokens with the largest or smallest values.

    See `segkernel.select_tokens`. Returns bool, the shape of `values`.
    """
    tokens = _Tokens("values", values, mask, offsets)
    _validate.selection_options(fraction, count, largest=largest, scope=scope, rounding=rounding)
    for name, value in (("fraction", fraction), ("count", count)):
        if scope == "batch" and isinstance(value, np.ndarray) and value.ndim > 0:
            raise ValueError(f"{name}: expected a number with scope='batch', got {describe(value)}")
    fraction_scalar, fraction_rows, count_scalar, count_rows = 0.0, None, 0, None
    if fraction is not None:
        fraction_scalar, fraction_rows = tokens.per_row("fraction", fraction, np.float64)
        _validate.share("fraction", fraction_scalar)
    elif isinstance(count, np.ndarray):
        _array("count", count, _INTEGERS, "integer")
        _, count_rows = tokens.per_row("count", count, np.int64)
    else:
        _validate.integer("count", count, at_least=0)
        count_scalar = min(int(count or 0), values.size)
    selected = tokens.empty(np.bool_)
    _numpy.select_tokens(
        *tokens.arguments,
        fraction is not None,
        fraction_scalar,
        fraction_rows,
        count_scalar,
        count_rows,
        largest,
        scope == "batch",
        rounding == "ceil",
        tokens.offsets,
        selected,
    )
    return selected


def redistribute(
    prefix_scores: Array,
    mask: Array | None = None,
    *,
    initial: PerRow = 0.0,
    sequence_rewards: Array | None = None,
    mix: PerRow = 1.0,
    offsets: Array | None = None,
) -> Array:
    """Token rewards as differences of prefix scores.

    See `segkernel.redistribute`. Returns float32 (float64 for float64 scores), the shape of `prefix_scores`.
    """
    tokens = _Tokens("prefix_scores", prefix_scores, mask, offsets)
    initial_scalar, initial_rows = tokens.per_row("initial", initial)
    mix_scalar, mix_rows = tokens.per_row("mix", mix)
    if sequence_rewards is not None:
        _array("sequence_rewards", sequence_rewards, _FLOATS | _INTEGERS, "real")
        _, sequence_rewards = tokens.per_row("sequence_rewards", sequence_rewards)
    rewards = tokens.empty(tokens.compute)
    _numpy.redistribute(
        *tokens.arguments,
        initial_scalar,
        initial_rows,
        sequence_rewards,
        mix_scalar,
        mix_rows,
        tokens.offsets,
        rewards,
    )
    return rewards


def discounted_sum(
    values: Array, mask: Array | None = None, *, discount: PerRow, offsets: Array | None = None
) -> Array:
    """Discounted sum of each valid token's value and those after it. See `segkernel.discounted_sum`.

    Example:
        >>> import numpy as np
        >>> discounted_sum(np.array([[0.0, 1.0, 2.0]], np.float32), discount=0.5)
        array([[1., 2., 2.]], dtype=float32)
    """
    tokens = _Tokens("values", values, mask, offsets)
    scalar, per_row = tokens.per_row("discount", discount)
    sums = tokens.empty(tokens.compute)
    _numpy.discounted_sum(*tokens.arguments, scalar, per_row, tokens.offsets, sums)
    return sums


def gae(
    rewards: Array,
    values: Array,
    mask: Array | None = None,
    *,
    gamma: PerRow = 1.0,
    lam: PerRow = 0.95,
    value_lam: PerRow | None = None,
    holes: str = "skip",
    offsets: Array | None = None,
) -> tuple[Array, Array]:
    """Advantages and returns over the valid tokens of each row. See `segkernel.gae`."""
    tokens = _Tokens("rewards", rewards, mask, offsets)
    _array("values", values)
    if values.shape != rewards.shape:
        raise ValueError(f"values: expected {list(rewards.shape)} like rewards, got {describe(values)}")
    if values.dtype != rewards.dtype:
        dtype = np.promote_types(values.dtype, rewards.dtype)
        tokens, values = _Tokens("rewards", rewards.astype(dtype), mask, offsets), values.astype(dtype)
    gamma_scalar, gamma_rows = tokens.per_row("gamma", gamma)
    lam_scalar, lam_rows = tokens.per_row("lam", lam)
    return_scalar, return_rows = tokens.per_row("value_lam", lam if value_lam is None else value_lam)
    _validate.one_of("holes", holes, HOLES)
    advantages, returns = tokens.empty(tokens.compute), tokens.empty(tokens.compute)
    dtype_name, reward_data, valid = tokens.arguments
    _numpy.gae(
        dtype_name,
        reward_data,
        _as_bits(values),
        valid,
        gamma_scalar,
        gamma_rows,
        lam_scalar,
        lam_rows,
        return_scalar,
        return_rows,
        holes == "decay",
        tokens.offsets,
        advantages,
        returns,
    )
    return advantages, returns


class _Rows:
    """Rows of values per position, padded `[B, T]` or packed `[N]`, with offsets in the form that the kernels take."""

    def __init__(self, name: str, values: Array, offsets: Array | None) -> None:
        if offsets is None:
            if values.ndim != 2:
                raise ValueError(f"{name}: expected [B, T], or [N] together with offsets, got {describe(values)}")
        else:
            _array("offsets", offsets, frozenset({"int32", "int64"}), "int32 or int64")
            if offsets.ndim != 1 or offsets.size == 0 or not offsets.flags.c_contiguous:
                raise ValueError(f"offsets: expected contiguous offsets [B + 1], got {describe(offsets)}")
            if values.ndim != 1:
                raise ValueError(f"{name}: expected packed [N] together with offsets, got {describe(values)}")
            offsets = offsets.astype(np.int64, copy=False)
        self.shape = values.shape
        self.offsets = offsets
        self.count = values.shape[0] if offsets is None else offsets.size - 1

    def empty(self, dtype: Any) -> Array:
        return np.empty(self.shape, dtype)


class _Tokens(_Rows):
    """Values per token, padded `[B, T]` or packed `[N]`, with mask and offsets in the form that the kernels take."""

    def __init__(self, name: str, values: Array, mask: Array | None, offsets: Array | None) -> None:
        _array(name, values)
        super().__init__(name, values, offsets)
        if mask is not None:
            _array("mask", mask, _NUMERIC | {"bool"}, "bool or numeric")
            if mask.shape != values.shape:
                raise ValueError(f"mask: expected {list(values.shape)} like {name}, got {describe(mask)}")
            mask = _as_bool(mask)
        self.compute = np.dtype(np.float64 if values.dtype == np.float64 else np.float32)
        self.arguments = (values.dtype.name, _as_bits(values), mask)

    def per_row(self, name: str, value: PerRow, dtype: Any = None) -> tuple[float, Array | None]:
        """Scalar or `[B]` parameter as the kernels' pair `(scalar, [B] or None)`."""
        if not isinstance(value, np.ndarray):
            if not _validate.is_number(value):
                raise TypeError(f"{name}: expected a number or a [B] array, got {describe(value)}")
            return float(value), None
        if value.dtype.name not in _NUMERIC or isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{name}: expected a real number or a [B] array, got {describe(value)}")
        if value.ndim == 0:
            value = np.broadcast_to(value, self.count)
        if value.shape != (self.count,):
            raise ValueError(
                f"{name}: expected a number or an array [{self.count}], one per row, got {describe(value)}"
            )
        return 0.0, np.ascontiguousarray(value, dtype or self.compute)

    def state(self, name: str, value: int | Array) -> tuple[int, Array | None]:
        """Trigger state, a scalar or `[B]`, as the kernels' pair `(scalar, [B] int8 or None)`."""
        if not isinstance(value, np.ndarray):
            return _validate.state(name, value), None
        _array(name, value, _INTEGERS, "integer")
        # Clipped before the conversion to int8, in which 256 would become 0.
        return 0, self.per_row(name, np.clip(value.astype(np.int64), -128, 127), np.int8)[1]


def _array(name: str, value: object, dtypes: frozenset[str] = _FLOATS, kind: str = "floating-point") -> None:
    """Validates an array of one of `dtypes`, which `kind` describes, in native byte order.

    Refuses masked arrays, whose mask would be ignored.
    """
    if (
        not isinstance(value, np.ndarray)
        or isinstance(value, np.ma.MaskedArray)
        or not value.dtype.isnative
        or value.dtype.name not in dtypes
    ):
        article = "an" if kind[0] in "aeiou" else "a"
        raise TypeError(f"{name}: expected {article} {kind} array, got {describe(value)}")


def _as_bool(mask: Array) -> Array:
    return np.ascontiguousarray(mask if mask.dtype == np.bool_ else mask != 0)


def _as_bits(values: Array) -> Array:
    """C-contiguous array; half precision, which pybind11 does not support, as uint16."""
    data = np.ascontiguousarray(values)
    return data.view(np.uint16) if data.dtype.itemsize == 2 else data
