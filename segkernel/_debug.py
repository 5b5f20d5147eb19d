"""The `segkernel.debug` context manager. Not named debug.py: importing that would replace `segkernel.debug`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_enabled = os.environ.get("SEGKERNEL_DEBUG", "0") == "1"


@contextmanager
def debug() -> Iterator[None]:
    """Also validates the values of CUDA tensors: offsets, thresholds per row, labels. SEGKERNEL_DEBUG=1 does so always.

    On the CPU these are always validated. On CUDA every such check synchronizes with the device. On both, segment ids
    must also be as `segment` returns them, never decreasing within a row. Graphs of `torch.compile` contain none of
    these checks.

    Raises:
        ValueError, IndexError: in the calls made inside the context, for values that an operator does not accept.

    Example:
        >>> import torch, segkernel
        >>> with segkernel.debug():
        ...     segkernel.segment_reduce(torch.ones(1, 3), torch.tensor([[0, 2, 1]]), 3)
        Traceback (most recent call last):
        ...
        ValueError: ids: expected non-decreasing ids within a row, got 2 before 1 in row 0
    """
    global _enabled
    before, _enabled = _enabled, True
    try:
        yield
    finally:
        _enabled = before


def checks_values() -> bool:
    """Whether values of tensors are validated in Python."""
    return _enabled and not torch.compiler.is_compiling()
