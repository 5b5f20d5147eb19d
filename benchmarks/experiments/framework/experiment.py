"""Description of an experiment: methods with their baselines, conditions, candidates, and columns of the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.experiments.framework.columns import Column
from benchmarks.experiments.framework.data import DataFile
from benchmarks.experiments.framework.jobs import Step
from benchmarks.experiments.framework.settings import Settings
from benchmarks.experiments.framework.workspace import Workspace


@dataclass(frozen=True, eq=False)
class Method(Step):
    """A step whose result is compared with that of its baseline, seed by seed.

    Args:
        baseline: method that it is compared with; `None` for a start model.
        decides: whether it belongs to the part of the experiment that decides.
    """

    baseline: Method | None = None
    decides: bool = False


@dataclass(frozen=True)
class Candidate:
    """A variant of a method: its value on the axis of its question, and the line that it belongs to."""

    label: str
    method: Method
    series: str = ""


@dataclass(frozen=True)
class Question:
    """A choice to be made on the tuning seeds.

    Args:
        name: the option that is varied.
        of: the method as it is without the change. It may be among the candidates, which costs no further run.
        candidates: its variants, in the order of the plot's axis.
        unit: unit of the labels, if they are numbers.
        conditions: names of the experiment's conditions to run; default: all of them.
    """

    name: str
    of: Method
    candidates: Sequence[Candidate]
    unit: str = ""
    conditions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """Everything that the framework needs to run an experiment and to show its results.

    Args:
        name: stem of its files, and its name in `--task`.
        title: heading of the report.
        settings: seeds and sizes.
        workspace: class of the workspaces, which the steps receive.
        conditions: by name, the value of every source, such as `{"all pairs": {"pairs": "all"}}`. The first condition
            is the main one. In another one a method runs only if it uses a source that differs.
        methods: methods in the order of the table, baselines first.
        questions: candidates of the tuning run.
        columns: measures of a method's result that the tables show; the first one is the headline.
        stage_columns: measures of the stages that the methods share, such as the accuracy of a reward model.
        legend: explanation of the columns and conditions.
        packages: packages whose versions are recorded with the results.
        threads: threads that a job gains from, for the default number of processes.
        uses_gpu: whether its jobs run on a GPU if there is one.
        preload: modules that worker processes import before their first job.
        data: file that it reads; `None` if it makes its data. `settings` are then `DataSettings`.
    """

    name: str
    title: str
    settings: Settings
    workspace: type[Workspace[Any]]
    conditions: Mapping[str, Mapping[str, str]]
    methods: Sequence[Method]
    columns: Sequence[Column]
    questions: Sequence[Question] = ()
    stage_columns: Sequence[Column] = ()
    legend: str = ""
    packages: tuple[str, ...] = ()
    threads: int = 1
    uses_gpu: bool = False
    preload: tuple[str, ...] = field(default=(), kw_only=True)
    data: DataFile | None = None

    def __post_init__(self) -> None:
        named: dict[str, Step] = {}
        waiting: list[Step] = [*self.methods, *(c.method for q in self.questions for c in q.candidates)]
        while waiting:
            step = waiting.pop()
            other = named.setdefault(step.name, step)
            if (step.run, step.uses, step.needs) != (other.run, other.uses, other.needs):
                raise ValueError(f"steps: expected one function for the name {step.name!r}, got two")
            waiting += [need.step for need in step.needs]

    @property
    def main_condition(self) -> str:
        return next(iter(self.conditions))

    def conditions_of(self, method: Method) -> list[str]:
        """Conditions that differ from the main one for this method, and the main one itself."""
        main = self.conditions[self.main_condition]
        return [
            name
            for name, sources in self.conditions.items()
            if name == self.main_condition or any(sources[source] != main[source] for source in method.uses)
        ]
