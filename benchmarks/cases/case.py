"""Case of a benchmark: implementations of one piece of work, timed on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.targets import OURS

KEPT = f"{OURS}, 25 % kept"

Function = Callable[..., Any]


def nothing() -> None:
    """No preparation."""


@dataclass(frozen=True)
class Case:
    """Implementations of one piece of work on the same inputs.

    Args:
        work: name of the work, with its shape.
        implementations: by name, the reference of the ratios first; `None` where a peer is not installed.
        inputs: arguments of several calls, used in turn so that a GPU does not find them in its cache.
        bytes_moved: bytes the work has to move, by implementation where it differs ("" for all others).
        check: raises AssertionError where segkernel's result is wrong on these inputs.
        before: called before each timed call, untimed.
        captured: whether the GPU clock replays the calls from a CUDA graph, which removes the launch overhead.
        slow: implementations that take seconds per call: few repeats, never captured.
        caller_bytes: size of the gradients that every implementation returns; measures peak memory beyond it.
    """

    work: str
    implementations: Mapping[str, Function | None]
    inputs: Sequence[tuple[Any, ...]] = ((),)
    bytes_moved: Mapping[str, int] = field(default_factory=dict)
    check: Callable[[], None] = nothing
    before: Callable[[], Any] = nothing
    captured: bool = False
    slow: tuple[str, ...] = ()
    caller_bytes: int | None = None

    def bytes_of(self, implementation: str) -> int | None:
        return self.bytes_moved.get(implementation, self.bytes_moved.get(""))


def shape(sizes: tuple[int, ...]) -> str:
    return str(list(sizes))
