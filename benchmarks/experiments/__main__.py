"""`python -m benchmarks.experiments`: run what has no result yet, then write tables, plots and report of everything."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiments.output import with_circumstances, write_readme, write_results
from benchmarks.experiments.schedule import run_tasks, wall_seconds
from benchmarks.experiments.settings import Settings
from benchmarks.experiments.summary import all_tasks, summarise
from benchmarks.experiments.tables import markdown, method_rows, sweep_rows

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments", description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "experiment", help="where runs keep their state")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="of one thread each")
    parser.add_argument("--quick", action="store_true", help="minutes, to see that everything works; writes no result")
    arguments = parser.parse_args(argv)
    settings = Settings().quick() if arguments.quick else Settings()
    folder = settings.folder(arguments.output)
    print(f"work in progress: {folder}", flush=True)
    results = run(settings, folder, arguments.processes)
    if arguments.quick:
        report = write_results(results, folder / "experiment.json", folder / "report")
    else:
        report = write_results(results, RESULTS / "experiment.json", RESULTS / "experiment")
        write_readme(results, ROOT / "README.md")
    print(f"\n{markdown(method_rows(results['methods']))}\n\n{markdown(sweep_rows(results['sweeps']))}\n")
    print(f"report: {report}")
    return 0


def run(settings: Settings, folder: Path, processes: int) -> dict[str, Any]:
    """Every result, made now or by an earlier run in this folder."""
    run_tasks(all_tasks(settings), settings, folder, processes)
    return with_circumstances(summarise(settings, folder), settings, wall_seconds(folder), processes)


if __name__ == "__main__":
    raise SystemExit(main())
