"""Worker processes for independent trainings of tiny models."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor

import torch
import transformers


def worker_pool(processes: int) -> ProcessPoolExecutor:
    """A pool of quiet processes with one thread each, which end with their parent.

    They are forked from a server process that imports the trainers once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["examples.capitals.training"])
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker)


def quiet() -> None:
    """Turn off progress bars and messages below errors, and use one thread: tiny models gain nothing from more."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("segkernel").setLevel(logging.ERROR)
    torch.set_num_threads(1)


def _start_worker() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet()


def _end_with_parent() -> None:
    """Exit when the parent is gone: idle workers of a killed pool would wait forever for the next task."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # since this is a worker
    parent.join()
    os._exit(1)
