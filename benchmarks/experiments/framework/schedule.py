"""Scheduler: runs jobs in dependency order in the workers of an executor, and stores each result."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from benchmarks.experiments.framework.experiment import Experiment
from benchmarks.experiments.framework.hardware import environment
from benchmarks.experiments.framework.jobs import Job, with_needed
from benchmarks.experiments.framework.plan import Plan
from benchmarks.experiments.framework.settings import Settings
from benchmarks.experiments.framework.workspace import Workspace, write_atomically
from examples.common.workers import worker_pool


def pool_of(experiment: Experiment, processes: int) -> Executor:
    """Worker processes that share the cores: each has an equal number of threads."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    # Takes effect when a worker imports the libraries. The last one keeps an import from initializing CUDA in the
    # server process: workers forked from it could not use a GPU then.
    os.environ |= {"OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
    return worker_pool(processes, threads=threads, preload=experiment.preload)


def run_plan(plan: Plan, root: Path, pool: Executor, processes: int) -> None:
    """Run all jobs without a result, at most `processes` at once.

    Raises:
        BrokenProcessPool: a worker process was killed.
        RuntimeError: a job failed. Jobs already running are finished first.
    """
    everything = with_needed(plan.jobs)
    settings, workspace = plan.experiment.settings, plan.experiment.workspace
    done = {job for job in everything if workspace(settings, root, job.seed).result(job) is not None}
    waiting = [job for job in everything if job not in done]
    if not waiting:
        return
    record = RunRecord(plan, root, processes)
    try:
        _run_waiting(waiting, done, record, pool)
    finally:
        record.store()


def runs(plan: Plan, root: Path) -> list[dict[str, Any]]:
    """Runs that made the results of this plan in this folder: machine, processes and wall time.

    Consecutive runs on equal machines with as many processes are one. Finished jobs may come from another machine, to
    which the folder was copied back and forth.
    """
    path = _runs_file(plan, root)
    found: list[dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else []
    return found


class RunRecord:
    """Entry of `runs` for the current run, stored after every job, so that a killed run has it."""

    def __init__(self, plan: Plan, root: Path, processes: int) -> None:
        self.plan, self.root, self.processes = plan, root, processes
        self.before, self.seconds = runs(plan, root), 0.0
        self.machine = {**environment(plan.experiment), "processes": processes}
        if self.before and {**self.before[-1], **self.machine} == self.before[-1]:
            self.seconds = self.before.pop()["wall_seconds"]
        self.began = time.monotonic()

    def store(self) -> None:
        seconds = self.seconds + time.monotonic() - self.began
        entries = [*self.before, {**self.machine, "wall_seconds": seconds}]
        write_atomically(_runs_file(self.plan, self.root), json.dumps(entries, indent=1))


def _runs_file(plan: Plan, root: Path) -> Path:
    return root / f"{plan.name}-runs.json"


def _run_waiting(waiting: list[Job], done: set[Job], record: RunRecord, pool: Executor) -> None:
    running: dict[Future[None], Job] = {}
    experiment, root, processes = record.plan.experiment, record.root, record.processes
    with tqdm(total=len(waiting), desc=experiment.name, unit="job") as progress:
        while waiting or running:
            for job in _ready(waiting, done)[: processes - len(running)]:
                waiting.remove(job)
                running[pool.submit(run_job, job, experiment.workspace, experiment.settings, root)] = job
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                job = running.pop(future)
                if (error := future.exception()) is not None:
                    pool.shutdown(cancel_futures=True)
                    if isinstance(error, BrokenProcessPool):
                        raise error
                    raise RuntimeError(f"seed {job.seed}, {job.name}: failed") from error
                done.add(job)
                record.store()
                progress.set_postfix_str(f"seed {job.seed}, {job.label}")
                progress.update()


def _ready(waiting: Sequence[Job], done: set[Job]) -> list[Job]:
    return [job for job in waiting if done.issuperset(job.needs)]


def run_job(job: Job, workspace: type[Workspace[Any]], settings: Settings, root: Path) -> None:
    """Run one job and store its result."""
    work = workspace(settings, root, job.seed)
    work.clear(job)
    work.store(job, job.step.run(work, job))
