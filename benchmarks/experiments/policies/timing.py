"""Timing of functions inside a training run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any


@dataclass
class Stopwatch:
    """Seconds spent in the functions that `timing` wraps."""

    seconds: float = 0.0


@contextmanager
def timing(*functions: tuple[Any, str]) -> Iterator[Stopwatch]:
    """Time the calls of functions, given as (module or class, name), while the context lasts."""
    watch = Stopwatch()
    originals = [getattr(owner, name) for owner, name in functions]

    def timed(function: Any) -> Any:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                watch.seconds += time.perf_counter() - began

        return call

    try:
        for (owner, name), original in zip(functions, originals, strict=True):
            setattr(owner, name, timed(original))
        yield watch
    finally:
        for (owner, name), original in zip(functions, originals, strict=True):
            setattr(owner, name, original)
