"""Steps of an experiment, and jobs: one step with one seed, on data of given sources."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

NO_RENAMES: Mapping[str, str] = {}


@dataclass(frozen=True, eq=False)
class Step:
    """A stage or a method of an experiment.

    Args:
        name: its name in tables and file names. Steps of one name differ in their options only.
        run: function of a workspace and a job, which returns the job's result: measures by name. It must be importable,
            or a `functools.partial` of an importable function, since worker processes call it.
        uses: names of the sources that it depends on, such as "pairs".
        needs: steps whose jobs must be finished before.
        options: what else decides its result, such as a learning rate; values that JSON can hold.
    """

    name: str
    run: Callable[[Any, Job], dict[str, Any]]
    uses: tuple[str, ...] = ()
    needs: tuple[Need, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def job(self, seed: int, sources: Mapping[str, str] = NO_RENAMES) -> Job:
        """The job of one seed; sources that the step does not use are dropped."""
        return Job(seed, self, {name: sources[name] for name in self.uses})

    def with_options(self, **options: Any) -> Self:
        """The same step with other options; an unchanged option keeps the job and its result."""
        return replace(self, options={**self.options, **options})


@dataclass(frozen=True)
class Need:
    """A prerequisite of a step.

    Args:
        step: the required step.
        sources: for a source of `step`, the name of the source that decides it, where the names differ.

    Example:
        >>> reward = Step("reward", print, uses=("pairs",))
        >>> asr_dpo = Step("asr-dpo", print, ("pairs", "rewards"), (Need(reward, {"pairs": "rewards"}),))
        >>> asr_dpo.job(1, {"pairs": "adversarial", "rewards": "all"}).need("reward").sources
        {'pairs': 'all'}
    """

    step: Step
    sources: Mapping[str, str] = field(default_factory=dict)

    def job(self, seed: int, sources: Mapping[str, str]) -> Job:
        """The job of the required step, from the sources of the step that requires it."""
        return self.step.job(seed, {name: sources[self.sources.get(name, name)] for name in self.step.uses})


@dataclass(frozen=True, eq=False)
class Job:
    """One step with its seed and sources; equal jobs have one result.

    `name` covers everything that the result depends on: the sources, and a hash of the options of this job and of all
    jobs that it needs.
    """

    seed: int
    step: Step
    sources: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def needs(self) -> tuple[Job, ...]:
        """Jobs that must be finished before."""
        return tuple(need.job(self.seed, self.sources) for need in self.step.needs)

    def need(self, name: str) -> Job:
        """The needed job of the step with this name."""
        return next(job for job in self.needs if job.step.name == name)

    @cached_property
    def name(self) -> str:
        decided_by = [self.step.options, [job.name for job in self.needs]]
        digest = hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()[:8]
        return " ".join([self.label, digest])

    @property
    def label(self) -> str:
        """Step and sources.

        Example:
            >>> Step("dpo", print, uses=("pairs",)).job(1, {"pairs": "all"}).label
            'dpo pairs=all'
        """
        return " ".join([self.step.name, *(f"{name}={value}" for name, value in self.sources.items())])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and (self.seed, self.name) == (other.seed, other.name)

    def __hash__(self) -> int:
        return hash((self.seed, self.name))


def with_needed(jobs: Iterable[Job]) -> list[Job]:
    """Jobs with all their prerequisites, without duplicates, in topological order."""
    ordered: dict[Job, None] = {}

    def visit(job: Job) -> None:
        if job not in ordered:
            for needed in job.needs:
                visit(needed)
            ordered[job] = None

    for job in jobs:
        visit(job)
    return list(ordered)
