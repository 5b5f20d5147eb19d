"""Memory bandwidth."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.cases.case import Case
from benchmarks.cases.machine import Machine


def bandwidth(machine: Machine) -> Iterator[Case]:
    """Copy of a tensor: the memory bandwidth that bandwidth-bound kernels are measured against."""
    source = torch.empty(machine.shapes.copied, dtype=torch.bfloat16, device=machine.device).normal_()
    target = torch.empty_like(source)
    yield Case("copy", {"torch": lambda: target.copy_(source)}, bytes_moved={"": 2 * source.nbytes})
    reads = {"torch.sum": lambda: source.sum(), "torch.amax": lambda: source.amax()}
    yield Case("read", reads, bytes_moved={"": source.nbytes})
