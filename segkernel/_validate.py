"""Validation of options that are no tensors, shared by the torch and the NumPy functions. Imports no torch.

Errors name the argument, the expected and the given value: "name: expected X, got Y".
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np

from segkernel._enums import SEGMENT_REDUCTIONS


def describe(value: object) -> str:
    """Dtype and shape of a tensor or an array, type and value of anything else."""
    if isinstance(value, np.ndarray):
        kind = "masked " if isinstance(value, np.ma.MaskedArray) else ""
        return f"{kind}{value.dtype} {list(value.shape)}"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        layout = "" if value.layout is torch.strided else str(value.layout).removeprefix("torch.") + " "
        return f"{layout}{str(value.dtype).removeprefix('torch.')} {list(value.shape)} on {value.device}"
    return f"{type(value).__name__} {value!r}"


def is_number(value: object) -> bool:
    """Whether `value` is a real scalar of Python or NumPy, bool excluded."""
    return isinstance(value, Real) and not isinstance(value, bool)


def boolean(name: str, value: object) -> None:
    if value is not True and value is not False:
        raise TypeError(f"{name}: expected True or False, got {describe(value)}")


def one_of(name: str, value: object, choices: Iterable[str]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def integer(name: str, value: Any, *, at_least: int) -> None:
    # torch.SymInt, an integer that torch.compile traces, is not registered as Integral.
    if isinstance(value, bool) or not (isinstance(value, Integral) or type(value).__name__ == "SymInt"):
        raise TypeError(f"{name}: expected an integer, got {describe(value)}")
    minimum(name, value, at_least)


def minimum(name: str, value: float, least: float) -> None:
    """Validates a number by its lower bound; NaN is below every bound."""
    if not value >= least:
        raise ValueError(f"{name}: expected >= {least}, got {value!r}")


def positive(name: str, value: Any) -> None:
    if not is_number(value):
        raise TypeError(f"{name}: expected a number > 0, got {describe(value)}")
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a finite number > 0, got {value!r}")


def weight(name: str, value: Any) -> None:
    if not is_number(value):
        raise TypeError(f"{name}: expected a number >= 0, got {describe(value)}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: expected a finite number >= 0, got {value!r}")


def not_negative(name: str, value: float | None) -> None:
    if value is not None:
        minimum(name, value, 0)


def share(name: str, value: Any) -> None:
    if not is_number(value):
        raise TypeError(f"{name}: expected a number, got {describe(value)}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected 0 <= {name} <= 1, got {value!r}")


def ordered(low: float, high: float) -> None:
    if not low <= high:
        raise ValueError(f"low: expected low <= high, got low = {low!r}, high = {high!r}")


def state(name: str, value: Any) -> int:
    """Validates a trigger state; returns it as an int."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected -1, 0 or +1, or integers [B], got {describe(value)}")
    if int(value) not in (-1, 0, 1):
        raise ValueError(f"{name}: expected -1, 0 or +1, got {value!r}")
    return int(value)


def slope_and_intercept(name: str, value: tuple[float, float]) -> tuple[float, float]:
    """Validates a line over `log p`; returns its two coefficients as floats."""
    try:
        coefficients = tuple(float(coefficient) for coefficient in value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a slope and an intercept, got {describe(value)}") from None
    if len(coefficients) != 2 or not all(math.isfinite(coefficient) for coefficient in coefficients):
        raise ValueError(f"{name}: expected a finite slope and intercept, got {value!r}")
    return coefficients


def segment_options(
    pivot_threshold: object,
    delta: object,
    *,
    hold: object,
    reduce: object,
    keep_neutral: object,
    max_segments: int | None,
    offsets_name: str,
    packed: bool,
) -> None:
    """Validates the options of `segment` that are the same for all rows."""
    if pivot_threshold is None and delta is None:
        raise ValueError("segment: expected pivot_threshold, delta or both, got neither")
    one_of("reduce", reduce, SEGMENT_REDUCTIONS)
    boolean("hold", hold)
    boolean("keep_neutral", keep_neutral)
    if max_segments is not None:
        if packed:
            raise ValueError(
                f"max_segments: expected None with {offsets_name} (packed segments sit at their row's offset), "
                f"got {max_segments!r}"
            )
        integer("max_segments", max_segments, at_least=0)


def selection_options(fraction: object, count: object, *, largest: object, scope: object, rounding: object) -> None:
    """Validates the options of `select_tokens` that are the same for all rows."""
    if (fraction is None) == (count is None):
        raise ValueError(f"select_tokens: expected fraction or count, got {'neither' if count is None else 'both'}")
    boolean("largest", largest)
    one_of("scope", scope, ("row", "batch"))
    one_of("rounding", rounding, ("ceil", "floor"))
