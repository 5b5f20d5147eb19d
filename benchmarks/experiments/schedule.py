"""Runs tasks in processes of one thread each, every task once those it needs are done, and stores each result."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import threading
import time
import warnings
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

import torch
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from benchmarks.experiments.registry import STEPS
from benchmarks.experiments.settings import Settings
from benchmarks.experiments.tasks import Task, needed_by, with_needed
from benchmarks.experiments.workspace import Workspace, write_whole

CLOCK = "wall-seconds.json"
# Read by the libraries when a worker imports them.
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


def run_tasks(tasks: list[Task], settings: Settings, root: Path, processes: int) -> None:
    """Run what has no result yet.

    Raises:
        RuntimeError: a task failed; those that were running then are finished first.
    """
    everything = with_needed(tasks, STEPS)
    done = {task for task in everything if Workspace(root, settings, task.seed).result(task) is not None}
    waiting = [task for task in everything if task not in done]
    if not waiting:
        return
    os.environ |= WORKER_ENVIRONMENT
    began = time.monotonic()
    try:
        _run_waiting(waiting, done, settings, root, processes)
    finally:
        write_whole(root / CLOCK, json.dumps(wall_seconds(root) + time.monotonic() - began))


def wall_seconds(root: Path) -> float:
    """How long the runs in this folder have worked, all of them together."""
    path = root / CLOCK
    return json.loads(path.read_text()) if path.is_file() else 0.0


def _run_waiting(waiting: list[Task], done: set[Task], settings: Settings, root: Path, processes: int) -> None:
    running: dict[Future[None], Task] = {}
    context = multiprocessing.get_context("spawn")
    with (
        tqdm(total=len(waiting), desc="experiment", unit="task") as progress,
        ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker) as pool,
    ):
        while waiting or running:
            ready = [task for task in waiting if done.issuperset(needed_by(task, STEPS))]
            for task in ready[: processes - len(running)]:
                waiting.remove(task)
                running[pool.submit(run_task, task, settings, root)] = task
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                task = running.pop(future)
                if future.exception() is not None:
                    pool.shutdown(cancel_futures=True)
                    raise RuntimeError(f"seed {task.seed}, {task.name}: failed") from future.exception()
                done.add(task)
                progress.set_postfix_str(f"seed {task.seed}, {task.name}")
                progress.update()


def run_task(task: Task, settings: Settings, root: Path) -> None:
    work = Workspace(root, settings, task.seed)
    work.clear(task)
    work.store(task, STEPS[task.step].run(work, task))


def _start_worker() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    # The Trainer prints its last line of metrics even without a progress bar.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _end_with_parent() -> None:
    """A pool's idle workers would wait forever for the next task of a run that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # since this is a worker
    parent.join()
    os._exit(1)
