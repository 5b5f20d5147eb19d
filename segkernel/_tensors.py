"""Tensor arguments of the operators: validated, then converted to the form that the kernels take.

Types, dtypes, shapes and devices are validated on every call, which costs no device synchronization and works under
`torch.compile`. Values (thresholds per row, offsets, labels) are validated by the CPU kernels, and here, for CUDA
tensors, only under `segkernel.debug()`.
"""

from __future__ import annotations

from itertools import repeat

import torch
from torch import Tensor

from segkernel import _validate
from segkernel._debug import checks_values
from segkernel._validate import describe

FLOATS = frozenset({torch.float32, torch.bfloat16, torch.float16, torch.float64})
INTEGERS = frozenset({torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8})


def compute_dtype(value: Tensor) -> torch.dtype:
    """Dtype of an operator's arithmetic and outputs: float64 for float64, float32 for all others."""
    return torch.float64 if value.dtype is torch.float64 else torch.float32


def tensor(name: str, value: object, dtypes: frozenset[torch.dtype] = FLOATS, kind: str = "floating-point") -> None:
    """Validates a strided tensor of one of `dtypes`, which `kind` describes."""
    if not isinstance(value, Tensor) or value.dtype not in dtypes or value.layout is not torch.strided:
        article = "an" if kind[0] in "aeiou" else "a"
        raise TypeError(f"{name}: expected {article} {kind} tensor, got {describe(value)}")


def same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.device != other.device:
        raise ValueError(
            f"{name}: expected a tensor on {other.device} (the device of {other_name}), got {describe(value)}"
        )


def same_shape(**tensors: Tensor) -> None:
    """Validates that all tensors have the shape of the first, so that none is broadcast."""
    (first, expected), *rest = ((name, tuple(tensor.shape)) for name, tensor in tensors.items())
    for name, shape in rest:
        if shape != expected:
            raise ValueError(f"{name}: expected {list(expected)} like {first}, got {list(shape)}")


def constant(name: str, value: Tensor) -> None:
    """Validates that no gradient to `value`, which would be dropped, is expected."""
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name}: expected a constant, got a tensor that requires grad; call .detach() on it")


def tokens(
    name: str, value: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Values per token, padded `[B, T]` or packed `[N]`, with their mask and offsets, all contiguous, the mask bool."""
    tensor(name, value)
    layout(name, value, cu_seqlens)
    if mask is not None:
        mask = token_mask(mask, name, value, value.shape)
    return value.contiguous(), mask, cu_seqlens


def layout(name: str, value: Tensor, cu_seqlens: Tensor | None) -> None:
    """Validates that values per token are `[B, T]`, or `[N]` with offsets."""
    if cu_seqlens is not None:
        offsets(cu_seqlens, name, value)
    elif value.dim() != 2:
        raise ValueError(f"{name}: expected [B, T], or [N] together with cu_seqlens, got {describe(value)}")


def offsets(cu_seqlens: Tensor, name: str, value: Tensor) -> None:
    """Validates `cu_seqlens` `[B + 1]` for packed `value` `[N]`."""
    tensor("cu_seqlens", cu_seqlens, frozenset({torch.int32, torch.int64}), "int32 or int64")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] == 0 or not cu_seqlens.is_contiguous():
        raise ValueError(f"cu_seqlens: expected contiguous offsets [B + 1], got {describe(cu_seqlens)}")
    same_device("cu_seqlens", cu_seqlens, name, value)
    if value.dim() != 1:
        raise ValueError(f"{name}: expected packed [N] together with cu_seqlens, got {describe(value)}")
    if checks_values():
        _offset_values(cu_seqlens.tolist(), value.shape[0])


def _offset_values(cu_seqlens: list[int], tokens: int) -> None:
    if cu_seqlens[0] != 0:
        raise ValueError(f"cu_seqlens: expected to start at 0, got {cu_seqlens[0]}")
    for index in range(1, len(cu_seqlens)):
        before, after = cu_seqlens[index - 1 : index + 1]
        if before > after:
            raise ValueError(f"cu_seqlens: expected non-decreasing offsets, got {before} then {after} at index {index}")
    if cu_seqlens[-1] != tokens:
        raise ValueError(f"cu_seqlens: expected to end at the number of packed tokens, {tokens}, got {cu_seqlens[-1]}")


def token_mask(mask: Tensor | None, name: str, value: Tensor, shape: torch.Size) -> Tensor | None:
    """Mask of the given shape as contiguous bool: nonzero is valid."""
    if mask is None:
        return None
    mask_type(mask)
    if mask.shape != shape:
        raise ValueError(f"mask: expected {list(shape)} like {name}, got {describe(mask)}")
    same_device("mask", mask, name, value)
    return nonzero(mask)


def mask_type(mask: Tensor) -> None:
    if not isinstance(mask, Tensor) or mask.layout is not torch.strided or mask.dtype.is_complex:
        raise TypeError(f"mask: expected a bool or numeric tensor, got {describe(mask)}")


def nonzero(mask: Tensor) -> Tensor:
    """The positions other than 0, as contiguous bool."""
    return (mask if mask.dtype is torch.bool else mask != 0).contiguous()


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
    """Scalar or `[B]` parameter of rows of tokens as the kernels' pair `(scalar, [B] or None)`.

    The tensor is converted to `dtype`, by default that of the arithmetic.
    """
    if type(value) is float or type(value) is int:  # the usual case first: isinstance on a tensor class is slow
        return value, None
    if not isinstance(value, Tensor):
        if not _validate.is_number(value):
            raise TypeError(f"{name}: expected a number or a [B] tensor, got {describe(value)}")
        return float(value), None
    if value.dtype.is_complex or value.dtype is torch.bool or value.layout is not torch.strided:
        raise TypeError(f"{name}: expected a real number or a [B] tensor, got {describe(value)}")
    rows = row_count(tokens, cu_seqlens)
    if value.dim() == 0:
        value = value.expand(rows)
    if value.shape != (rows,):
        raise ValueError(f"{name}: expected a number or a tensor [{rows}], one per row, got {describe(value)}")
    same_device(name, value, "the tokens", tokens)
    return 0.0, value.to(dtype or compute_dtype(tokens)).contiguous()


def optional_per_row(
    name: str,
    value: float | Tensor | None,
    tokens: Tensor,
    cu_seqlens: Tensor | None,
    *,
    dtype: torch.dtype | None = None,
) -> tuple[float | None, Tensor | None]:
    """`per_row` of a parameter that may be absent: then both are None."""
    if value is None or type(value) is float or type(value) is int:
        return value, None
    scalar, row_value = per_row(name, value, tokens, cu_seqlens, dtype=dtype)
    return (None if row_value is not None else scalar), row_value


def not_negative(name: str, value: float | None, row_value: Tensor | None) -> None:
    """Validates that a parameter, as `per_row` returns it, is `>= 0`."""
    _validate.not_negative(name, value)
    if row_value is not None and checks_values():
        for scalar in row_value.tolist():
            if not scalar >= 0:
                raise ValueError(f"{name}: expected >= 0, got {scalar:g}")


def ordered(low: float, row_low: Tensor | None, high: float, row_high: Tensor | None) -> None:
    """Validates `low <= high`, both as `per_row` returns them."""
    if row_low is None and row_high is None:
        _validate.ordered(low, high)
    elif checks_values():
        lows = repeat(low) if row_low is None else row_low.tolist()
        highs = repeat(high) if row_high is None else row_high.tolist()
        for row, (below, above) in enumerate(zip(lows, highs, strict=False)):
            if not below <= above:
                raise ValueError(f"low: expected low <= high, got low = {below:g}, high = {above:g} at row {row}")


def states(name: str, value: int | Tensor, tokens: Tensor, cu_seqlens: Tensor | None) -> tuple[int, Tensor | None]:
    """Trigger state in {-1, 0, +1}, a scalar or `[B]`, as the kernels' pair `(scalar, [B] int8 or None)`."""
    if not isinstance(value, Tensor):
        return _validate.state(name, value), None
    tensor(name, value, INTEGERS, "integer")
    # Clamped before the conversion to int8, in which 256 would become 0.
    _, row_value = per_row(name, value.to(torch.int64).clamp(-128, 127), tokens, cu_seqlens, dtype=torch.int8)
    if row_value is not None and checks_values():
        for state in row_value.tolist():
            if state not in (-1, 0, 1):
                raise ValueError(f"{name}: expected -1, 0 or +1, got {state}")
    return 0, row_value


def segment_ids(ids: Tensor, name: str, value: Tensor, shape: torch.Size, cu_seqlens: Tensor | None = None) -> Tensor:
    """Segment ids of the given shape as contiguous int32."""
    tensor("ids", ids, INTEGERS, "integer")
    if ids.shape != shape:
        raise ValueError(f"ids: expected {list(shape)} like {name}, got {describe(ids)}")
    same_device("ids", ids, name, value)
    if checks_values():
        _ids_never_decrease(ids, cu_seqlens)
    if ids.dtype is torch.int64:
        ids = ids.clamp(-1, 2**31 - 1)  # the conversion to int32 would turn 2^32 into 0
    return ids.to(torch.int32).contiguous()


def _ids_never_decrease(ids: Tensor, cu_seqlens: Tensor | None) -> None:
    rows = ids.unbind() if cu_seqlens is None else ids.tensor_split(cu_seqlens[1:-1].cpu())
    for index, row in enumerate(rows):
        valid = row[row >= 0]
        drops = (valid.diff() < 0).nonzero()
        if len(drops):
            at = int(drops[0])
            raise ValueError(
                f"ids: expected non-decreasing ids within a row, got {valid[at]} before {valid[at + 1]} in row {index}"
            )


def positive_at_valid(name: str, value: Tensor, labels: Tensor, mask: Tensor | None) -> None:
    """Validates, under `debug()` only, that values are finite and `> 0` at valid positions with a label."""
    if not checks_values():
        return
    wrong = ~((value > 0) & value.isfinite()) & (labels != -100)
    if mask is not None:
        wrong &= mask
    for position in wrong.nonzero().tolist():
        raise ValueError(f"{name}: expected a finite number > 0, got {value[tuple(position)].item():g} at {position}")


def segment_values(name: str, value: Tensor, counts: Tensor) -> None:
    """Validates values per segment `[B, S]` and the number of segments per row, integer `[B]`."""
    tensor(name, value)
    tensor("counts", counts, INTEGERS, "integer")
    if value.dim() != 2:
        raise ValueError(f"{name}: expected [B, S], got {describe(value)}")
    if counts.shape != value.shape[:1]:
        raise ValueError(f"counts: expected [{value.shape[0]}], got {describe(counts)}")
    same_device("counts", counts, name, value)


def labels_in_range(labels: Tensor, mask: Tensor | None, vocabulary: int) -> None:
    """Validates, under `debug()` only, that labels at valid positions are in `[0, vocabulary)` or -100."""
    if not checks_values():
        return
    wrong = ((labels < 0) | (labels >= vocabulary)) & (labels != -100)
    if mask is not None:
        wrong &= mask if mask.dim() == labels.dim() else mask.unsqueeze(-1)
    for position in wrong.nonzero().tolist():
        raise IndexError(
            f"labels: expected 0 <= label < {vocabulary}, or -100 where there is none, "
            f"got {labels[tuple(position)].item()} at {position}"
        )
