"""Summary of stored results: means over seeds with intervals, and paired differences to the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiments.ablations import sweeps
from benchmarks.experiments.methods import Method
from benchmarks.experiments.registry import METHODS, STEPS
from benchmarks.experiments.settings import Settings
from benchmarks.experiments.steps import task_of, with_needed
from benchmarks.experiments.tasks import ALL_PAIRS, CONDITIONS, Task
from benchmarks.experiments.workspace import Workspace
from examples.common.estimates import difference, estimate

SWEPT_CONDITIONS = (ALL_PAIRS, "adversarial pairs")


def all_tasks(settings: Settings) -> list[Task]:
    """All tasks, seed by seed, so that an interrupted run has complete first seeds."""
    points = [step for points in sweeps(settings.thin_sweeps).values() for _, step in points]
    return list(
        dict.fromkeys(
            task_of(step, seed, CONDITIONS[condition])
            for seed in settings.seeds
            for steps, conditions in ((METHODS, CONDITIONS), (points, SWEPT_CONDITIONS))
            for step in steps
            for condition in conditions
        )
    )


def summarize(settings: Settings, root: Path) -> dict[str, Any]:
    """Results of every method in every condition, of every sweep, and of the shared stages."""
    workspaces = [Workspace(root, settings, seed) for seed in settings.seeds]
    return {
        "methods": [
            describe(workspaces, method, condition)
            for method in METHODS
            for condition in CONDITIONS
            if condition == ALL_PAIRS or set(method.uses) & changed_sources(condition)
        ],
        "sweeps": [
            {"sweep": sweep, "label": label, **describe(workspaces, method, condition)}
            for sweep, points in sweeps(settings.thin_sweeps).items()
            for condition in SWEPT_CONDITIONS
            for label, method in points
        ],
        "stages": stages(settings, root),
    }


def stages(settings: Settings, root: Path) -> dict[str, dict[str, Any]]:
    """Stored results of the shared stages by task name and seed."""
    found: dict[str, dict[str, Any]] = {}
    for task in with_needed(all_tasks(settings), STEPS):
        result = Workspace(root, settings, task.seed).finished(task)
        if not isinstance(STEPS[task.step], Method) and result:
            found.setdefault(task.name, {})[str(task.seed)] = result
    return found


def changed_sources(condition: str) -> set[str]:
    """Sources in which a condition differs from `all pairs`. A method that uses none of them is not run again.

    Example:
        >>> changed_sources("adversarial pairs")
        {'pairs'}
    """
    return {name for name, source in CONDITIONS[condition].items() if source != CONDITIONS[ALL_PAIRS][name]}


def describe(workspaces: Sequence[Workspace], method: Method, condition: str) -> dict[str, Any]:
    """One method in one condition: values per seed, means, and paired differences to its baseline."""
    rows, others = (
        [work.finished(task_of(step, work.seed, CONDITIONS[condition])) for work in workspaces]
        for step in (method, STEPS[method.baseline])
    )
    per_seed = {name: [row[name] for row in rows] for name in rows[0]}
    against = {name: difference(per_seed[name], [o[name] for o in others]) for name in per_seed if name in others[0]}
    return {
        "method": method.name,
        "baseline": method.baseline,
        "condition": condition,
        "learning_rate": method.learning_rate,
        "per_seed": per_seed,
        "mean": {name: estimate(values)._asdict() for name, values in per_seed.items()},
        "against_baseline": {name: found._asdict() for name, found in against.items()},
    }
