"""Run an experiment, then write tables, plots and report: `python -m benchmarks.experiments`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Executor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.experiments.framework.data import Rows, digest, store_rows
from benchmarks.experiments.framework.experiment import Experiment
from benchmarks.experiments.framework.output import write_results
from benchmarks.experiments.framework.page import captioned, write_page
from benchmarks.experiments.framework.plan import Plan
from benchmarks.experiments.framework.schedule import pool_of, run_plan, runs
from benchmarks.experiments.framework.summary import summarize
from benchmarks.experiments.framework.tables import candidate_tables, method_tables
from benchmarks.experiments.registry import MODULES, load_experiment
from benchmarks.machine import installed_versions

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "experiments"
PAGE = ROOT / "docs" / "experiments.md"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__)
    parser.add_argument("--task", choices=list(MODULES), default="capitals", help="the task (default: %(default)s)")
    parser.add_argument("--tune", action="store_true", help="compare candidates, on seeds that the comparison has not")
    parser.add_argument("--deciding", action="store_true", help="run only the methods that decide")
    parser.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME",
        help="without --tune: only this method, with the jobs that it needs; may be given several times",
    )
    parser.add_argument(
        "--question",
        action="append",
        default=[],
        metavar="NAME",
        help="with --tune: only this question and the methods that it is about; may be given several times",
    )
    parser.add_argument(
        "--finished", action="store_true", help="run nothing: store and show what earlier runs finished for all seeds"
    )
    parser.add_argument("--quick", action="store_true", help="a test of minutes; stores no results")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "experiments", help="folder of all jobs")
    parser.add_argument("--data", type=Path, help="file that the task reads, where it reads one")
    parser.add_argument("--processes", type=int, help="worker processes; they share the cores equally")
    arguments = parser.parse_args(argv)
    if arguments.processes is not None and arguments.processes < 1:
        parser.error(f"--processes: expected >= 1, got {arguments.processes}")
    experiment = load_experiment(arguments.task)
    if arguments.question and not arguments.tune:
        parser.error("--question: expected --tune with it, got none")
    if arguments.method and arguments.tune:
        parser.error("--method: expected no --tune with it, got one")
    for option, given, known in (
        ("--question", arguments.question, [question.name for question in experiment.questions]),
        ("--method", arguments.method, [method.name for method in experiment.methods]),
    ):
        if unknown := [name for name in given if name not in known]:
            parser.error(f"{option}: expected one of {', '.join(map(repr, dict.fromkeys(known)))}, got {unknown[0]!r}")
    if arguments.quick:
        experiment = replace(experiment, settings=experiment.settings.quick())
    try:
        rows = read_data(experiment, arguments.data)
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: error: --data: {error}", file=sys.stderr)
        return 2
    if rows:
        settings: Any = experiment.settings
        experiment = replace(experiment, settings=replace(settings, data_sha256=digest(rows)))
    plan = Plan(
        experiment,
        tuning=arguments.tune,
        deciding=arguments.deciding,
        asked=tuple(arguments.question),
        only=tuple(arguments.method),
    )
    folder = experiment.settings.folder(arguments.output / experiment.name)
    processes = arguments.processes or max(1, (os.cpu_count() or 1) // experiment.threads)
    print(*missing_packages(experiment), f"work in progress: {folder}", sep="\n", flush=True)
    if rows:
        store_rows(rows, folder)
    try:
        if arguments.finished:
            results = collect(plan, folder)
        else:
            with pool_of(experiment, processes) as pool:
                results = run(plan, folder, pool, processes)
    except KeyboardInterrupt:
        print("interrupted: the same command resumes after the last finished job")
        return 130
    except BrokenProcessPool:
        print(
            f"{parser.prog}: error: a worker process was killed, perhaps for lack of memory; --processes 1 needs "
            "less memory; the same command resumes after the last finished job",
            file=sys.stderr,
        )
        return 1
    if arguments.quick:
        report = write_results(results, folder / f"{plan.name}.json", folder / plan.name)
    else:
        report = write_results(results, RESULTS / f"{plan.name}.json", RESULTS / plan.name)
        write_page(results, plan.name, PAGE, RESULTS / plan.name)
    questions = [
        {f"{name}, {of}": one for of, one in found.items()} for name, found in candidate_tables(results).items()
    ]
    tables = [text for found in (method_tables(results), *questions) for text in captioned(found)]
    print("", *tables, f"report: {report}", sep="\n\n")
    return 0


def missing_packages(experiment: Experiment) -> list[str]:
    """One line for every column that stays empty without a package that is not installed."""
    return [
        f"{column.label}: not measured, since the package {column.package} is not installed"
        for column in experiment.columns
        if column.package and not installed_versions(column.package)
    ]


def read_data(experiment: Experiment, path: Path | None) -> Rows:
    """Rows of the file that an experiment reads; none for an experiment that makes its data.

    Raises:
        OSError, ValueError: a file that cannot be used, a missing one, or one that is not read.
    """
    if experiment.data is None:
        if path is not None:
            raise ValueError(f"expected none, since the task {experiment.name} makes its data, got {path}")
        return []
    if path is None:
        raise ValueError(f"expected {experiment.data.description} for the task {experiment.name}, got none")
    return experiment.data.read(path)


def run(plan: Plan, folder: Path, pool: Executor, processes: int) -> dict[str, Any]:
    """Results of a plan; finished jobs of an earlier run in this folder are reused."""
    run_plan(plan, folder, pool, processes)
    return collect(plan, folder)


def collect(plan: Plan, folder: Path) -> dict[str, Any]:
    """Results of the methods and questions that are finished for all seeds."""
    return {"runs": runs(plan, folder), **summarize(plan, folder)}


if __name__ == "__main__":
    raise SystemExit(main())
