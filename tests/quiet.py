"""Settings of the process that `examples.common.workers.quiet` changes, restored afterwards."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled


@contextmanager
def restored_after_quiet() -> Iterator[None]:
    """Restore log levels, progress bars and the number of threads, which later tests of this process depend on."""
    levels = {name: logging.getLogger(name).level for name in ("segkernel", "transformers")}
    bars, threads = is_progress_bar_enabled(), torch.get_num_threads()
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        (enable_progress_bar if bars else disable_progress_bar)()
        torch.set_num_threads(threads)
