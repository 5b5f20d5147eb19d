"""Times work on the GPU: medians of event-timed calls, and CUDA graphs where a call is shorter than its launch.

The rehearsal's clock stands in on a machine without a GPU, so that everything around the measurements can be tried.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

Inputs = Sequence[tuple[Any, ...]]  # of one call each, used in turn


def nothing() -> None:
    pass


class Clock(Protocol):
    device: str

    def calls(
        self, function: Callable[..., Any], inputs: Inputs, *, repeats: int = 30, before: Callable[[], Any] = nothing
    ) -> float:
        """Seconds of one call: the median over `repeats`, one input after the other. `before` each is not timed."""

    def replays(self, function: Callable[..., Any], inputs: Inputs) -> float:
        """Seconds of one call out of a graph that holds one call for every input: nothing of the host is in it."""

    def rotations(self, bytes_per_call: int) -> int:
        """How many inputs to use in turn, so that none is still in the cache when it comes again."""

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` under torch.compile."""

    def peak_bytes(self, function: Callable[[], Any]) -> int:
        """Memory that a call takes at its peak, beyond what was allocated before."""


class CudaClock:
    device = "cuda"

    def calls(
        self, function: Callable[..., Any], inputs: Inputs, *, repeats: int = 30, before: Callable[[], Any] = nothing
    ) -> float:
        for arguments in inputs[:2]:  # compiles, tunes, fills the allocator
            before()
            function(*arguments)
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
        torch.cuda.synchronize()
        # Nothing waits in between, so that the host stays ahead of the GPU.
        for (start, end), arguments in zip(events, itertools.cycle(inputs), strict=False):
            before()
            start.record()
            function(*arguments)
            end.record()
        torch.cuda.synchronize()
        return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3

    def replays(self, function: Callable[..., Any], inputs: Inputs) -> float:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for arguments in inputs[:2]:
                function(*arguments)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = [function(*arguments) for arguments in inputs]  # kept: every call writes memory of its own
        seconds = self.calls(graph.replay, [()]) / len(inputs)
        del kept
        return seconds

    def rotations(self, bytes_per_call: int) -> int:
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        return max(2, -(-3 * cache // bytes_per_call))

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=False)

    def peak_bytes(self, function: Callable[[], Any]) -> int:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


class RehearsalClock:
    """Runs everything twice on the CPU. Its seconds mean nothing."""

    device = "cpu"

    def calls(
        self, function: Callable[..., Any], inputs: Inputs, *, repeats: int = 30, before: Callable[[], Any] = nothing
    ) -> float:
        started = time.perf_counter()
        for arguments in itertools.islice(itertools.cycle(inputs), 2):
            before()
            function(*arguments)
        return (time.perf_counter() - started) / 2

    def replays(self, function: Callable[..., Any], inputs: Inputs) -> float:
        return self.calls(function, inputs)

    def rotations(self, bytes_per_call: int) -> int:
        return 2

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, backend="eager")  # generates no code

    def peak_bytes(self, function: Callable[[], Any]) -> int:
        function()
        return 0


def copy_bandwidth(clock: Clock, numel: int) -> float:
    """Bytes per second of a copy on this card, read and written: what a memory-bound kernel is measured against."""
    source = torch.empty(numel, dtype=torch.bfloat16, device=clock.device).normal_()  # equal bits would move faster
    target = torch.empty_like(source)
    return 2 * source.nbytes / clock.calls(lambda: target.copy_(source), [()])
