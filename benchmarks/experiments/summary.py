"""From stored results to numbers: means over seeds with their intervals, and paired differences to the baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

from benchmarks.experiments.ablations import sweeps
from benchmarks.experiments.methods import Method
from benchmarks.experiments.registry import METHODS, STEPS
from benchmarks.experiments.settings import Settings
from benchmarks.experiments.tasks import ALL_PAIRS, CONDITIONS, Task, task_of, with_needed
from benchmarks.experiments.workspace import Workspace

SWEPT_CONDITIONS = (ALL_PAIRS, "adversarial pairs")


class Estimate(NamedTuple):
    """A mean over seeds and half the width of its 95 % t-interval (none from a single seed)."""

    mean: float
    half_width: float | None

    @property
    def sign(self) -> int:
        """Whether all of the interval is above 0, or below."""
        if self.half_width is None or abs(self.mean) <= self.half_width:
            return 0
        return 1 if self.mean > 0 else -1


def estimate(values: Sequence[float]) -> Estimate:
    """
    Example:
        >>> center, half_width = estimate([1.0, 2.0, 3.0])
        >>> center, round(half_width, 3)
        (2.0, 2.484)
    """
    count = len(values)
    center = math.fsum(values) / count
    if count < 2:
        return Estimate(center, None)
    deviation = math.sqrt(math.fsum((value - center) ** 2 for value in values) / (count - 1))
    return Estimate(center, float(stats.t.ppf(0.975, count - 1)) * deviation / math.sqrt(count))


def difference(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """The paired difference: what both have in common from their seed drops out.

    Example:
        >>> difference([0.5, 0.75], [0.25, 0.5])
        Estimate(mean=0.25, half_width=0.0)
    """
    return estimate([value - other for value, other in zip(values, baseline, strict=True)])


def all_tasks(settings: Settings) -> list[Task]:
    """Everything to be run, seed by seed, so that the first seeds are complete when a run is cut off."""
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


def summarise(settings: Settings, root: Path) -> dict[str, Any]:
    """Every method in every condition, every sweep, and what the shared stages came to."""
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
    """What the stages that methods share have stored, by name and seed."""
    found: dict[str, dict[str, Any]] = {}
    for task in with_needed(all_tasks(settings), STEPS):
        result = Workspace(root, settings, task.seed).finished(task)
        if not isinstance(STEPS[task.step], Method) and result:
            found.setdefault(task.name, {})[str(task.seed)] = result
    return found


def changed_sources(condition: str) -> set[str]:
    """The sources in which a condition differs from `all pairs`: a method that uses none of them has no run of its own.

    Example:
        >>> changed_sources("adversarial pairs")
        {'pairs'}
    """
    return {name for name, source in CONDITIONS[condition].items() if source != CONDITIONS[ALL_PAIRS][name]}


def describe(workspaces: Sequence[Workspace], method: Method, condition: str) -> dict[str, Any]:
    """One method in one condition: its numbers per seed, their means, and the difference to its baseline."""
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
