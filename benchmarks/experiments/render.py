"""Write plots, report and tables of stored results, without a run: `python -m benchmarks.experiments.render`."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.experiments.__main__ import PAGE, RESULTS
from benchmarks.experiments.framework.output import write_results
from benchmarks.experiments.framework.page import write_page
from benchmarks.experiments.registry import MODULES


def main() -> None:
    stored = [RESULTS / f"{name}.json" for task in MODULES for name in (task, f"{task}-tuning")]
    for path in filter(Path.is_file, stored):
        results = json.loads(path.read_text(encoding="utf-8"))
        write_results(results, path, RESULTS / path.stem)
        write_page(results, path.stem, PAGE, RESULTS / path.stem)
        print(path)


if __name__ == "__main__":
    main()
