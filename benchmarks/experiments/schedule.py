"""Scheduler: runs tasks in single-threaded worker processes in dependency order, and stores each result."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from tqdm.auto import tqdm

from benchmarks.experiments.registry import STEPS
from benchmarks.experiments.settings import Settings
from benchmarks.experiments.steps import needed_by, with_needed
from benchmarks.experiments.tasks import Task
from benchmarks.experiments.workspace import Workspace, write_atomically
from examples.common.workers import worker_pool

CLOCK = "wall-seconds.json"
# Takes effect when a worker imports the libraries.
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


def run_tasks(tasks: list[Task], settings: Settings, root: Path, processes: int) -> None:
    """Run all tasks without a result.

    Raises:
        RuntimeError: a task failed. Tasks already running are finished first.
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
        write_atomically(root / CLOCK, json.dumps(wall_seconds(root) + time.monotonic() - began))


def wall_seconds(root: Path) -> float:
    """Total wall time of all runs in this folder."""
    path = root / CLOCK
    return json.loads(path.read_text()) if path.is_file() else 0.0


def _run_waiting(waiting: list[Task], done: set[Task], settings: Settings, root: Path, processes: int) -> None:
    running: dict[Future[None], Task] = {}
    with (
        tqdm(total=len(waiting), desc="experiment", unit="task") as progress,
        worker_pool(processes, preload=["examples.capitals.training"]) as pool,
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
