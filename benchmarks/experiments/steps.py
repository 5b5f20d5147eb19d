"""Steps of the experiment: stages and methods as functions, and the order of their tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.experiments.tasks import Task
from benchmarks.experiments.workspace import Workspace


@dataclass(frozen=True)
class Step:
    """A stage or method. `uses` names the sources it depends on: "pairs", "rewards" or both.

    `needs` maps each required step to the source of that step's pairs: one of this step's own sources, or "".
    """

    name: str
    run: Callable[[Workspace, Task], dict[str, Any]]
    uses: tuple[str, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)
    learning_rate: float | None = None


def task_of(step: Step, seed: int, sources: Mapping[str, str]) -> Task:
    """The task of a step with one seed; sources that the step does not use are dropped."""
    return Task(seed, step.name, learning_rate=step.learning_rate, **{name: sources[name] for name in step.uses})


def needed_by(task: Task, steps: Mapping[str, Step]) -> list[Task]:
    """Direct prerequisites of a task."""
    sources = {"pairs": task.pairs, "rewards": task.rewards}
    return [
        task_of(steps[name], task.seed, {"pairs": sources.get(source, ""), "rewards": task.rewards})
        for name, source in steps[task.step].needs.items()
    ]


def with_needed(tasks: list[Task], steps: Mapping[str, Step]) -> list[Task]:
    """Tasks with all their prerequisites, without duplicates, in topological order."""
    ordered: dict[Task, None] = {}

    def visit(task: Task) -> None:
        if task not in ordered:
            for needed in needed_by(task, steps):
                visit(needed)
            ordered[task] = None

    for task in tasks:
        visit(task)
    return list(ordered)
