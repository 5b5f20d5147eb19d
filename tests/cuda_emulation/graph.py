"""CUDA graphs of the emulation: what the kernels' launchers hand to the device, recorded and done again.

Nothing else is: what torch computes between two operators happens once, while the graph is recorded.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def recorded() -> Iterator[Callable[[], object]]:
    """Records what is launched inside; afterwards the function that it gives does it again."""
    library = ctypes.CDLL(os.environ["SEGKERNEL_LIBRARY"])
    library.record_graph()
    try:
        yield library.replay_graph
    finally:
        library.end_graph()
