"""What the experiment consists of: tasks, each one stage or one method's training from one seed and its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.experiments.workspace import Workspace

# Where a policy's preference pairs and its rewards come from. A method that uses only one of the two has the same run
# in every condition that agrees on it.
ALL_PAIRS = "all pairs"
CONDITIONS = {
    ALL_PAIRS: {"pairs": "all", "rewards": "all"},
    "adversarial pairs": {"pairs": "adversarial", "rewards": "all"},
    "adversarial pairs and rewards": {"pairs": "adversarial", "rewards": "adversarial"},
}


@dataclass(frozen=True)
class Step:
    """A stage or method. `uses` names what it depends on, of "pairs" and "rewards".

    `needs` maps the steps that come before to the source of their pairs: which of this step's own sources it is.
    """

    name: str
    run: Callable[[Workspace, Task], dict[str, Any]]
    uses: tuple[str, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)
    learning_rate: float | None = None


@dataclass(frozen=True)
class Task:
    """One step from one seed, on the pairs and rewards of these sources ("" where it uses none)."""

    seed: int
    step: str
    pairs: str = ""
    rewards: str = ""
    learning_rate: float | None = None

    @property
    def name(self) -> str:
        """
        Example:
            >>> Task(1, "asr-dpo", pairs="all", rewards="all", learning_rate=3e-4).name
            'asr-dpo pairs=all rewards=all lr=0.0003'
        """
        options = {"pairs": self.pairs, "rewards": self.rewards, "lr": self.learning_rate}
        return " ".join([self.step, *(f"{name}={value}" for name, value in options.items() if value)])


def task_of(step: Step, seed: int, sources: Mapping[str, str]) -> Task:
    return Task(seed, step.name, learning_rate=step.learning_rate, **{name: sources[name] for name in step.uses})


def needed_by(task: Task, steps: Mapping[str, Step]) -> list[Task]:
    """The tasks right before this one."""
    sources = {"pairs": task.pairs, "rewards": task.rewards}
    return [
        task_of(steps[name], task.seed, {"pairs": sources.get(source, ""), "rewards": task.rewards})
        for name, source in steps[task.step].needs.items()
    ]


def with_needed(tasks: list[Task], steps: Mapping[str, Step]) -> list[Task]:
    """These tasks and all that come before them, each once, every one after those it needs."""
    ordered: dict[Task, None] = {}

    def visit(task: Task) -> None:
        if task not in ordered:
            for needed in needed_by(task, steps):
                visit(needed)
            ordered[task] = None

    for task in tasks:
        visit(task)
    return list(ordered)
