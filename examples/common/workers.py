"""Worker processes for independent trainings of small models."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

import torch
import transformers


def worker_pool(processes: int, *, threads: int = 1, preload: Sequence[str] = ()) -> ProcessPoolExecutor:
    """A pool of quiet processes, which end with their parent.

    Args:
        processes: number of processes.
        threads: threads of each process.
        preload: modules that the server process imports once; the workers are forked from it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, *preload])
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker, initargs=(threads,))


def quiet(threads: int = 1) -> None:
    """Turn off progress bars and messages below errors, and set the number of threads."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("segkernel").setLevel(logging.ERROR)
    torch.set_num_threads(threads)


def _start_worker(threads: int) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet(threads)


def _end_with_parent() -> None:
    """Exit when the parent is gone: idle workers of a killed pool would wait forever for the next task."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # since this is a worker
    parent.join()
    os._exit(1)
