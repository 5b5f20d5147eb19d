"""Argument checks of the wrappers: the argument's name, what was expected, what was given.

Types, dtypes, shapes and devices are looked at in any case: that costs no device synchronisation and works under
`torch.compile`. Values (thresholds per row, offsets, labels) are checked by the CPU operators themselves, and here,
for CUDA tensors, under `debug()` only.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import repeat

import torch
from torch import Tensor

FLOATS = frozenset({torch.float32, torch.bfloat16, torch.float16, torch.float64})
INTEGERS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8})


_debugging = os.environ.get("SEGKERNEL_DEBUG", "0") == "1"


@contextmanager
def debug() -> Iterator[None]:
    """Checks values, too, where that costs more than looking at shapes. SEGKERNEL_DEBUG=1 does so everywhere.

    Offsets, thresholds per row and labels are checked on the CPU in any case, on CUDA only here: every check waits for
    the device. In addition, segment ids must then be what `segment` returns: within a row they never decrease
    (ValueError). Graphs of `torch.compile` have no such checks.

    Example:
        >>> import torch, segkernel
        >>> with segkernel.debug():
        ...     segkernel.segment_reduce(torch.ones(1, 3), torch.tensor([[0, 2, 1]]), 3)
        Traceback (most recent call last):
        ...
        ValueError: ids: expected non-decreasing ids within a row, got 2 before 1 in row 0
    """
    global _debugging
    before, _debugging = _debugging, True
    try:
        yield
    finally:
        _debugging = before


def checks_values() -> bool:
    return _debugging and not torch.compiler.is_compiling()


def describe(value: object) -> str:
    """A short description of what was given, for error messages."""
    if isinstance(value, Tensor):
        layout = "" if value.layout is torch.strided else str(value.layout).removeprefix("torch.") + " "
        return f"{layout}{str(value.dtype).removeprefix('torch.')} {list(value.shape)} on {value.device}"
    return f"{type(value).__name__} {value!r}"


def tensor(name: str, value: object, dtypes: frozenset[torch.dtype] = FLOATS, what: str = "floating-point") -> None:
    """`value` must be a strided tensor of one of `dtypes`."""
    if not isinstance(value, Tensor) or value.dtype not in dtypes or value.layout is not torch.strided:
        article = "an" if what[0] in "aeiou" else "a"
        raise TypeError(f"{name}: expected {article} {what} tensor, got {describe(value)}")


def same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(f"{name}: expected on {other.device} like {other_name}, got {describe(value)}")


def same_shape(**tensors: Tensor) -> None:
    """All of the shape of the first: none may broadcast."""
    (first, expected), *rest = ((name, tuple(tensor.shape)) for name, tensor in tensors.items())
    for name, shape in rest:
        if shape != expected:
            raise ValueError(f"{name}: expected the shape of {first}, {list(expected)}, got {list(shape)}")


def tokens(
    name: str, value: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Checks one value per token, padded `[B, T]` or packed `[N]`, with its mask and offsets.

    Returns the three as the operators take them: contiguous, the mask bool.
    """
    tensor(name, value)
    if cu_seqlens is None:
        if value.dim() != 2:
            raise ValueError(f"{name}: expected [B, T], or [N] together with cu_seqlens, got {describe(value)}")
    else:
        offsets(cu_seqlens, name, value)
    if mask is not None:
        mask = token_mask(mask, name, value, value.shape)
    return value.contiguous(), mask, cu_seqlens


def offsets(cu_seqlens: Tensor, name: str, value: Tensor) -> None:
    """cu_seqlens `[B + 1]` for packed `value` `[N]`."""
    tensor("cu_seqlens", cu_seqlens, frozenset({torch.int32, torch.int64}), "int32 or int64")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] == 0 or not cu_seqlens.is_contiguous():
        raise ValueError(f"cu_seqlens: expected contiguous offsets [B + 1], got {describe(cu_seqlens)}")
    same_device("cu_seqlens", cu_seqlens, name, value)
    if value.dim() != 1:
        raise ValueError(f"{name}: expected packed [N] together with cu_seqlens, got {describe(value)}")
    if checks_values():
        offsets_cover(cu_seqlens.tolist(), value.shape[0])


def offsets_cover(cu_seqlens: list[int], tokens: int) -> None:
    """cu_seqlens must start at 0, never decrease, and end at the number of packed tokens."""
    if cu_seqlens[0] != 0:
        raise ValueError(f"cu_seqlens: expected to start at 0, got {cu_seqlens[0]}")
    for index in range(1, len(cu_seqlens)):
        before, after = cu_seqlens[index - 1 : index + 1]
        if before > after:
            raise ValueError(f"cu_seqlens: expected non-decreasing offsets, got {before} then {after} at index {index}")
    if cu_seqlens[-1] != tokens:
        raise ValueError(f"cu_seqlens: expected to end at the number of packed tokens, {tokens}, got {cu_seqlens[-1]}")


def token_mask(mask: Tensor | None, name: str, value: Tensor, shape: torch.Size) -> Tensor | None:
    """A mask of the given shape, as contiguous bool: nonzero is valid."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.layout is not torch.strided:
        raise TypeError(f"mask: expected a bool or numeric tensor, got {describe(mask)}")
    if mask.shape != shape:
        raise ValueError(f"mask: expected {list(shape)} like {name}, got {describe(mask)}")
    same_device("mask", mask, name, value)
    if mask.dtype is not torch.bool:
        if mask.dtype.is_complex:
            raise TypeError(f"mask: expected a bool or numeric tensor, got {describe(mask)}")
        mask = mask != 0
    return mask.contiguous()


def row_count(value: Tensor, cu_seqlens: Tensor | None) -> int:
    return value.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


def per_row(
    name: str,
    value: float | Tensor,
    tokens: Tensor,
    cu_seqlens: Tensor | None,
    *,
    dtype: torch.dtype | None = None,
) -> tuple[float, Tensor | None]:
    """A parameter of rows of tokens, a number or a `[B]` tensor, as the operators' pair `(number, rows)`.

    The tensor is converted to `dtype`, by default the type that `tokens` are computed in.
    """
    if type(value) is float or type(value) is int:  # the usual case first: asking a tensor's class costs more
        return value, None
    if not isinstance(value, Tensor):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name}: expected a number or a [B] tensor, got {describe(value)}")
        return value, None
    if value.dtype.is_complex or value.layout is not torch.strided:
        raise TypeError(f"{name}: expected a real number or a [B] tensor, got {describe(value)}")
    rows = row_count(tokens, cu_seqlens)
    if value.dim() == 0:
        value = value.expand(rows)
    if value.shape != (rows,):
        raise ValueError(f"{name}: expected a number or a tensor [{rows}], one per row, got {describe(value)}")
    same_device(name, value, "the values", tokens)
    return 0.0, value.to(dtype or compute_dtype(tokens)).contiguous()


def optional_per_row(
    name: str,
    value: float | Tensor | None,
    tokens: Tensor,
    cu_seqlens: Tensor | None,
    *,
    dtype: torch.dtype | None = None,
) -> tuple[float | None, Tensor | None]:
    """Like `per_row`, for a parameter that may be absent: then both are None."""
    if value is None or type(value) is float or type(value) is int:
        return value, None
    number, row_value = per_row(name, value, tokens, cu_seqlens, dtype=dtype)
    return (None if row_value is not None else number), row_value


def compute_dtype(value: Tensor) -> torch.dtype:
    """What an op computes in, and returns: float64 for float64, float32 for everything else."""
    return torch.float64 if value.dtype is torch.float64 else torch.float32


def not_negative(name: str, value: float | None, row_value: Tensor | None) -> None:
    """A parameter as `per_row` or `optional_per_row` returns it."""
    if value is not None and not value >= 0:
        raise ValueError(f"{name}: expected >= 0, got {value!r}")
    if row_value is not None and checks_values():
        for number in row_value.tolist():
            if not number >= 0:
                raise ValueError(f"{name}: expected >= 0, got {number:g}")


def ordered(low: float, row_low: Tensor | None, high: float, row_high: Tensor | None) -> None:
    """low <= high, both as `per_row` returns them."""
    if row_low is None and row_high is None:
        if not low <= high:
            raise ValueError(f"low: expected low <= high, got low = {low!r}, high = {high!r}")
    elif checks_values():
        lows = repeat(low) if row_low is None else row_low.tolist()
        highs = repeat(high) if row_high is None else row_high.tolist()
        for row, (below, above) in enumerate(zip(lows, highs, strict=False)):
            if not below <= above:
                raise ValueError(f"low: expected low <= high, got low = {below:g}, high = {above:g} at row {row}")


def positive(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected a number > 0, got {describe(value)}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a finite number > 0, got {value!r}")


def line(name: str, value: tuple[float, float]) -> tuple[float, float]:
    try:
        slope_and_intercept = tuple(float(number) for number in value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a slope and an intercept, got {describe(value)}") from None
    if len(slope_and_intercept) != 2 or not all(math.isfinite(number) for number in slope_and_intercept):
        raise ValueError(f"{name}: expected a finite slope and intercept, got {value!r}")
    return slope_and_intercept


def boolean(name: str, value: bool) -> None:
    if value is not True and value is not False:
        raise TypeError(f"{name}: expected True or False, got {describe(value)}")


def one_of(name: str, value: str, choices: Iterable[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def states(name: str, value: int | Tensor, tokens: Tensor, cu_seqlens: Tensor | None) -> tuple[int, Tensor | None]:
    """A trigger state in {-1, 0, +1}, one number or `[B]`, as the operators' pair."""
    if isinstance(value, int) and not isinstance(value, bool):
        if -1 <= value <= 1:
            return value, None
        raise ValueError(f"{name}: expected -1, 0 or +1, got {value!r}")
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected -1, 0 or +1, or an integer tensor [B], got {describe(value)}")
    tensor(name, value, INTEGERS, "integer")
    # Clamped first: 256 must not pass as 0.
    _, row_value = per_row(name, value.to(torch.int64).clamp(-128, 127), tokens, cu_seqlens, dtype=torch.int8)
    if row_value is not None and checks_values():
        for state in row_value.tolist():
            if state not in (-1, 0, 1):
                raise ValueError(f"{name}: expected -1, 0 or +1, got {state}")
    return 0, row_value


def integer(name: str, value: int, *, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name}: expected an integer, got {describe(value)}")
    if value < at_least:
        raise ValueError(f"{name}: expected >= {at_least}, got {value!r}")


def segment_ids(ids: Tensor, name: str, value: Tensor, shape: torch.Size, cu_seqlens: Tensor | None = None) -> Tensor:
    """Segment ids of the given shape, as contiguous int32."""
    tensor("ids", ids, INTEGERS, "integer")
    if ids.shape != shape:
        raise ValueError(f"ids: expected {list(shape)} like {name}, got {describe(ids)}")
    same_device("ids", ids, name, value)
    if checks_values():
        ids_never_decrease(ids, cu_seqlens)
    if ids.dtype is torch.int64:
        ids = ids.clamp(-1, 2**31 - 1)  # 2^32 must not pass as 0
    return ids.to(torch.int32).contiguous()


def ids_never_decrease(ids: Tensor, cu_seqlens: Tensor | None) -> None:
    rows = ids.unbind() if cu_seqlens is None else ids.tensor_split(cu_seqlens[1:-1].cpu())
    for index, row in enumerate(rows):
        valid = row[row >= 0]
        drops = (valid.diff() < 0).nonzero()
        if len(drops):
            at = int(drops[0])
            raise ValueError(
                f"ids: expected non-decreasing ids within a row, got {valid[at]} before {valid[at + 1]} in row {index}"
            )


def labels_in_range(labels: Tensor, mask: Tensor | None, vocabulary: int) -> None:
    """Labels at valid positions must be in `[0, vocabulary)`, or -100. Looks under `debug()` only."""
    if not checks_values():
        return
    wrong = ((labels < 0) | (labels >= vocabulary)) & (labels != -100)
    if mask is not None:
        wrong &= mask
    for position in wrong.nonzero().tolist():
        raise IndexError(
            f"labels: expected 0 <= label < {vocabulary}, or -100 where there is none, "
            f"got {labels[tuple(position)].item()} at {position}"
        )
