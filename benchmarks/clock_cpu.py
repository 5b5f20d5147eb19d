"""CPU clock: interleaved turns, medians of wall time, and peak memory.

Timings drift with the machine's load, so the implementations of a case take turns; the median is over all turns.
"""

from __future__ import annotations

import ctypes
import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases.case import Case, Function
from benchmarks.cases.machine import CPU, Machine

TURNS = 3
SECONDS_PER_TURN = 0.5
MAX_CALLS_PER_TURN = 2000
SECONDS_OF_SLOW = 20  # calls that take longer are timed in the first turn only


class CpuClock:
    """Times cases on the CPU."""

    machine = Machine("cpu", CPU, lambda function: torch.compile(function, dynamic=False), lambda bytes_per_call: 1)

    def __init__(self, turns: int = TURNS) -> None:
        self.turns = turns

    def measure(self, case: Case) -> Iterator[tuple[str, dict[str, Any] | Exception]]:
        """Seconds per call of every installed implementation, and its peak memory if the case requests it."""
        seconds: dict[str, list[float]] = {}
        failed: dict[str, Exception] = {}
        for turn in range(self.turns):
            for name, function in case.implementations.items():
                if function is None or name in failed or (turn and name in case.slow and "loop" in name):
                    continue
                if turn and statistics.median(seconds[name]) > SECONDS_OF_SLOW:
                    continue
                try:
                    seconds.setdefault(name, []).extend(self._turn(case, function))
                except Exception as error:
                    failed[name] = error
        for name, function in case.implementations.items():
            if name in failed:
                yield name, failed[name]
            elif function is not None:
                found: dict[str, Any] = {"seconds": statistics.median(seconds[name])}
                if case.caller_bytes is not None:
                    found["extra_bytes"] = max(0, self._peak_bytes(case, function) - case.caller_bytes)
                yield name, found

    def _turn(self, case: Case, function: Function) -> list[float]:
        """Seconds of single calls, for as long as a turn lasts; the first call of a turn is a warm-up."""
        arguments = case.inputs[0]
        case.before()
        function(*arguments)
        times: list[float] = []
        began = time.perf_counter()
        while not times or (time.perf_counter() - began < SECONDS_PER_TURN and len(times) < MAX_CALLS_PER_TURN):
            case.before()
            started = time.perf_counter()
            function(*arguments)
            times.append(time.perf_counter() - started)
        return times

    def _peak_bytes(self, case: Case, function: Function) -> int:
        """High-water mark of resident memory during a call, beyond what was resident before (Linux)."""
        case.before()
        ctypes.CDLL(None).malloc_trim(0)  # memory that earlier calls freed must not be reused unseen
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        before = _memory("VmRSS")
        function(*case.inputs[0])
        return _memory("VmHWM") - before


def _memory(field: str) -> int:
    """A memory field of this process in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
