"""Grid search for the methods' learning rates: `python -m benchmarks.experiments.tune`.

Every method trains at every rate of the grid, on all pairs, with a seed outside the experiment's. The rate with the
most right parts wins. Methods and baselines are tuned alike.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from benchmarks.experiments.registry import METHODS
from benchmarks.experiments.schedule import run_tasks
from benchmarks.experiments.settings import Settings
from benchmarks.experiments.steps import task_of
from benchmarks.experiments.tables import markdown
from benchmarks.experiments.tasks import ALL_PAIRS, CONDITIONS
from benchmarks.experiments.workspace import Workspace

SEED = 100
GRID = (1e-4, 3e-4, 1e-3, 3e-3)


def main() -> None:
    settings = Settings()
    root = settings.folder(Path("runs/experiment")) / "tuning"
    tasks = {
        (method.name, rate): replace(task_of(method, SEED, CONDITIONS[ALL_PAIRS]), learning_rate=rate)
        for method in METHODS
        if method.learning_rate
        for rate in GRID
    }
    run_tasks(list(tasks.values()), settings, root, os.cpu_count() or 1)
    work = Workspace(root, settings, SEED)
    right = {key: f"{100 * work.finished(task)['parts_right']:.1f}" for key, task in tasks.items()}
    rows = [
        {"method": method.name, **{f"{rate:g}": right[method.name, rate] for rate in GRID}}
        for method in METHODS
        if method.learning_rate
    ]
    print(markdown(rows))


if __name__ == "__main__":
    main()
