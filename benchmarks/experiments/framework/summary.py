"""Summary of stored results: means over seeds with intervals, and paired differences to the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.experiments.framework.experiment import Candidate, Method, Question
from benchmarks.experiments.framework.jobs import with_needed
from benchmarks.experiments.framework.plan import Plan
from benchmarks.experiments.framework.workspace import Workspace
from examples.common.estimates import difference, estimate

Result = Mapping[str, Any]
Entry = dict[str, Any]


def summarize(plan: Plan, root: Path) -> dict[str, Any]:
    """Results of a plan: what the tables show, every method and candidate in every condition, and the shared stages.

    A method or a question that is not part of the plan is summarized too if an earlier run has finished it for all
    seeds.
    """
    experiment = plan.experiment

    def runs_of(question: Question) -> list[tuple[Candidate, str]]:
        return [
            (candidate, condition)
            for candidate in question.candidates
            for condition in question.conditions or experiment.conditions_of(candidate.method)
        ]

    workspaces = [experiment.workspace(experiment.settings, root, seed) for seed in plan.seeds]
    summary = Summary(experiment.conditions, workspaces)
    return {
        "experiment": experiment.name,
        "title": experiment.title,
        "legend": experiment.legend,
        "seeds": list(plan.seeds),
        "settings": asdict(experiment.settings),
        "conditions": {name: dict(sources) for name, sources in experiment.conditions.items()},
        "columns": [asdict(column) for column in experiment.columns],
        "stage_columns": [asdict(column) for column in experiment.stage_columns],
        "methods": [
            summary.entry(method, condition)
            for method in experiment.methods
            for condition in experiment.conditions_of(method)
            if summary.results(method, condition)
        ],
        "candidates": [
            {
                "question": question.name,
                "unit": question.unit,
                "label": candidate.label,
                "series": candidate.series,
                "of": question.of.name,
                **summary.entry(candidate.method, condition),
                "against_unchanged": summary.differences(candidate.method, question.of, condition),
            }
            for question in plan.all_questions
            if all(summary.results(candidate.method, condition) for candidate, condition in runs_of(question))
            for candidate, condition in runs_of(question)
        ],
        "stages": stages(plan, workspaces),
    }


class Summary:
    """Estimates over the seeds, from the stored results of their workspaces."""

    def __init__(self, conditions: Mapping[str, Mapping[str, str]], workspaces: Sequence[Workspace[Any]]) -> None:
        self.conditions, self.workspaces = conditions, workspaces

    def results(self, method: Method, condition: str) -> list[Result] | None:
        """Results by seed; `None` unless all are finished."""
        sources = self.conditions[condition]
        found = [work.result(method.job(work.seed, sources)) for work in self.workspaces]
        return [result for result in found if result is not None] if None not in found else None

    def entry(self, method: Method, condition: str) -> Entry:
        """One method in one condition: values per seed, means, and paired differences to its baseline."""
        per_seed = values_by_measure(self.results(method, condition))
        return {
            "method": method.name,
            "baseline": method.baseline.name if method.baseline else None,
            "condition": condition,
            "options": dict(method.options),
            "per_seed": per_seed,
            "mean": {name: estimate(values)._asdict() for name, values in per_seed.items()},
            "against_baseline": self.differences(method, method.baseline, condition),
        }

    def differences(self, method: Method, other: Method | None, condition: str) -> dict[str, Any]:
        """Paired differences in every measure that both have; empty where both are the same job."""
        sources = self.conditions[condition]
        if other is None or method.job(0, sources) == other.job(0, sources):
            return {}
        values, others = (values_by_measure(self.results(one, condition)) for one in (method, other))
        return {name: difference(values[name], others[name])._asdict() for name in values if name in others}


def values_by_measure(results: Sequence[Result] | None) -> dict[str, list[float]]:
    """Values per seed of every measure that no seed lacks.

    Example:
        >>> values_by_measure([{"right": 0.5, "lints": 1.0}, {"right": 0.75, "lints": None}])
        {'right': [0.5, 0.75]}
    """
    if not results:
        return {}
    return {
        name: [result[name] for result in results]
        for name in results[0]
        if all(result.get(name) is not None for result in results)
    }


def stages(plan: Plan, workspaces: Sequence[Workspace[Any]]) -> list[Entry]:
    """Values per seed of the stages that the plan's methods share, if all seeds have finished them."""
    found: dict[str, list[Result | None]] = {}
    by_seed = {work.seed: work for work in workspaces}
    for job in with_needed(plan.jobs):
        if not isinstance(job.step, Method):
            found.setdefault(job.label, []).append(by_seed[job.seed].result(job))
    finished = {label: [result for result in results if result] for label, results in found.items()}
    return [
        {"stage": label, "per_seed": values_by_measure(results)}
        for label, results in finished.items()
        if results and len(results) == len(found[label])
    ]
