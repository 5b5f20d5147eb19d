"""GPU clock: medians of event-timed calls, and CUDA graphs where a call is shorter than its launch.

The rehearsal clock runs the same cases on a CPU with small shapes, to test everything around the measurements.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from benchmarks.cases.case import Case, Function, nothing
from benchmarks.cases.machine import GPU, REHEARSAL, Machine
from benchmarks.targets import OURS

REPEATS, REPEATS_OF_SLOW = 30, 5
WITH_CALL = f"{OURS}, with the call"

Inputs = Sequence[tuple[Any, ...]]


class CudaClock:
    """Times cases on the GPU."""

    def __init__(self) -> None:
        self.machine = Machine("cuda", GPU, lambda function: torch.compile(function, dynamic=False), self.rotations)

    def measure(self, case: Case) -> Iterator[tuple[str, dict[str, Any] | Exception]]:
        """Seconds per call of every installed implementation, and its peak memory if the case requests it.

        Captured cases also report segkernel with the overhead of its Python call, as `WITH_CALL`.
        """
        for name, function in case.implementations.items():
            if function is None:
                continue
            captured = case.captured and name not in case.slow
            try:
                yield name, self._measure(case, name, function, captured=captured)
            except Exception as error:
                yield name, error
            if captured and name == OURS:
                try:
                    yield WITH_CALL, self._measure(case, name, function, captured=False)
                except Exception as error:
                    yield WITH_CALL, error

    def _measure(self, case: Case, name: str, function: Function, *, captured: bool) -> dict[str, Any]:
        if captured:
            return {"seconds": self.replays(function, case.inputs)}
        repeats = REPEATS_OF_SLOW if name in case.slow else REPEATS
        found = {"seconds": self.calls(function, case.inputs, repeats=repeats, before=case.before)}
        if case.caller_bytes is not None:
            case.before()
            found["extra_bytes"] = max(0, self.peak_bytes(lambda: function(*case.inputs[0])) - case.caller_bytes)
        return found

    def calls(
        self, function: Function, inputs: Inputs, *, repeats: int = REPEATS, before: Callable[[], Any] = nothing
    ) -> float:
        """Median seconds of a call, with the inputs in turn; `before` runs untimed before each call."""
        for arguments in inputs[:2]:  # compile, tune, fill the allocator
            before()
            function(*arguments)
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
        torch.cuda.synchronize()
        # No synchronization in between, so that the host stays ahead of the GPU.
        for (start, end), arguments in zip(events, itertools.cycle(inputs), strict=False):
            before()
            start.record()
            function(*arguments)
            end.record()
        torch.cuda.synchronize()
        return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3

    def replays(self, function: Function, inputs: Inputs) -> float:
        """Seconds of a call in a graph with one call per input, free of host overhead."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for arguments in inputs[:2]:
                function(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = [function(*arguments) for arguments in inputs]  # kept, so that each call writes its own memory
        seconds = self.calls(graph.replay, [()]) / len(inputs)
        del kept
        return seconds

    def rotations(self, bytes_per_call: int) -> int:
        """Number of inputs whose total size is three times the L2 cache."""
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        return max(2, -(-3 * cache // bytes_per_call))

    def peak_bytes(self, function: Callable[[], Any]) -> int:
        """Peak of allocated memory during a call, beyond what was allocated before."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


class RehearsalClock(CudaClock):
    """Runs every call twice on the CPU. Its seconds mean nothing."""

    def __init__(self) -> None:
        self.machine = Machine("cpu", REHEARSAL, lambda function: torch.compile(function, backend="eager"), lambda _: 2)

    def calls(
        self, function: Function, inputs: Inputs, *, repeats: int = REPEATS, before: Callable[[], Any] = nothing
    ) -> float:
        started = time.perf_counter()
        for arguments in itertools.islice(itertools.cycle(inputs), 2):
            before()
            function(*arguments)
        return (time.perf_counter() - started) / 2

    def replays(self, function: Function, inputs: Inputs) -> float:
        return self.calls(function, inputs)

    def peak_bytes(self, function: Callable[[], Any]) -> int:
        function()
        return 0
