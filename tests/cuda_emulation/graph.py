"""CUDA graphs of the emulation: records the launches and copies of operators and replays them.

Computations of torch between two operators are not recorded: they run once, during the recording.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def recorded() -> Iterator[Callable[[], object]]:
    """Record all launches in the block. The yielded function replays them."""
    library = ctypes.CDLL(os.environ["SEGKERNEL_LIBRARY"])
    library.record_graph()
    try:
        yield library.replay_graph
    finally:
        library.end_graph()
