"""Run the experiment, then write tables, plots and report: `python -m benchmarks.experiments`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiments.output import with_environment, write_page, write_results
from benchmarks.experiments.schedule import run_tasks, wall_seconds
from benchmarks.experiments.settings import Settings
from benchmarks.experiments.summary import all_tasks, summarize
from benchmarks.experiments.tables import markdown, method_table, sweep_table

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "experiments.md"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "experiment", help="folder of all tasks")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="worker processes, one thread each")
    parser.add_argument("--quick", action="store_true", help="a test of minutes; stores no results")
    arguments = parser.parse_args(argv)
    settings = Settings().quick() if arguments.quick else Settings()
    folder = settings.folder(arguments.output)
    print(f"work in progress: {folder}", flush=True)
    results = run(settings, folder, arguments.processes)
    if arguments.quick:
        report = write_results(results, folder / "experiment.json", folder / "report")
    else:
        report = write_results(results, RESULTS / "experiment.json", RESULTS / "experiment")
        write_page(results, PAGE)
    print(f"\n{markdown(method_table(results['methods']))}\n\n{markdown(sweep_table(results['sweeps']))}\n")
    print(f"report: {report}")
    return 0


def run(settings: Settings, folder: Path, processes: int) -> dict[str, Any]:
    """Results of all tasks; finished tasks of an earlier run in this folder are reused."""
    run_tasks(all_tasks(settings), settings, folder, processes)
    return with_environment(summarize(settings, folder), settings, wall_seconds(folder), processes)


if __name__ == "__main__":
    raise SystemExit(main())
