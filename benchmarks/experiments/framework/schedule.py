"""Scheduler: runs jobs in dependency order in the workers of an executor, and stores each result."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from benchmarks.experiments.framework.experiment import Experiment
from benchmarks.experiments.framework.jobs import Job, with_needed
from benchmarks.experiments.framework.plan import Plan
from benchmarks.experiments.framework.settings import Settings
from benchmarks.experiments.framework.workspace import Workspace, write_atomically
from examples.common.workers import worker_pool


def pool_of(experiment: Experiment, processes: int) -> Executor:
    """Worker processes that share the cores: each has an equal number of threads."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    # Takes effect when a worker imports the libraries.
    os.environ |= {"OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
    return worker_pool(processes, threads=threads, preload=experiment.preload)


def run_plan(plan: Plan, root: Path, pool: Executor, processes: int) -> None:
    """Run all jobs without a result, at most `processes` at once.

    Raises:
        RuntimeError: a job failed. Jobs already running are finished first.
    """
    everything = with_needed(plan.jobs)
    settings, workspace = plan.experiment.settings, plan.experiment.workspace
    done = {job for job in everything if workspace(settings, root, job.seed).result(job) is not None}
    waiting = [job for job in everything if job not in done]
    if not waiting:
        return
    began = time.monotonic()
    try:
        _run_waiting(waiting, done, plan.experiment, root, pool, processes)
    finally:
        write_atomically(_clock(plan, root), json.dumps(wall_seconds(plan, root) + time.monotonic() - began))


def wall_seconds(plan: Plan, root: Path) -> float:
    """Total wall time of all runs of this plan in this folder."""
    path = _clock(plan, root)
    return json.loads(path.read_text()) if path.is_file() else 0.0


def _clock(plan: Plan, root: Path) -> Path:
    return root / f"{plan.name}-wall-seconds.json"


def _run_waiting(
    waiting: list[Job], done: set[Job], experiment: Experiment, root: Path, pool: Executor, processes: int
) -> None:
    running: dict[Future[None], Job] = {}
    with tqdm(total=len(waiting), desc=experiment.name, unit="job") as progress:
        while waiting or running:
            for job in _ready(waiting, done)[: processes - len(running)]:
                waiting.remove(job)
                running[pool.submit(run_job, job, experiment.workspace, experiment.settings, root)] = job
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                job = running.pop(future)
                if future.exception() is not None:
                    pool.shutdown(cancel_futures=True)
                    raise RuntimeError(f"seed {job.seed}, {job.name}: failed") from future.exception()
                done.add(job)
                progress.set_postfix_str(f"seed {job.seed}, {job.label}")
                progress.update()


def _ready(waiting: Sequence[Job], done: set[Job]) -> list[Job]:
    return [job for job in waiting if done.issuperset(job.needs)]


def run_job(job: Job, workspace: type[Workspace[Any]], settings: Settings, root: Path) -> None:
    """Run one job and store its result."""
    work = workspace(settings, root, job.seed)
    work.clear(job)
    work.store(job, job.step.run(work, job))
