"""Plan of a run: which seeds, methods and candidates of an experiment, and their jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.experiments.framework.experiment import Experiment, Method, Question
from benchmarks.experiments.framework.jobs import Job


@dataclass(frozen=True)
class Plan:
    """The part of an experiment that one command runs.

    Args:
        tuning: run the candidates as well, on the tuning seeds.
        deciding: run only the methods that decide, and only the questions about them.
        asked: names of the questions to run, with the methods that they are about and the baselines of these; without
            any, all questions and methods.
        only: names of the methods to run; without any, all methods.
    """

    experiment: Experiment
    tuning: bool = False
    deciding: bool = False
    asked: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Stem of the run's files."""
        return f"{self.experiment.name}-tuning" if self.tuning else self.experiment.name

    @property
    def seeds(self) -> tuple[int, ...]:
        settings = self.experiment.settings
        return settings.tuning_seeds if self.tuning else settings.seeds

    @property
    def methods(self) -> list[Method]:
        compared = {
            method.name for question in self.questions for method in (question.of, question.of.baseline) if method
        }
        return [
            method
            for method in self.experiment.methods
            if (method.decides or not self.deciding)
            and (method.name in compared or not self.asked)
            and (method.name in self.only or not self.only)
        ]

    @property
    def questions(self) -> list[Question]:
        return [
            question
            for question in self.all_questions
            if (question.of.decides or not self.deciding) and (question.name in self.asked or not self.asked)
        ]

    @property
    def all_questions(self) -> list[Question]:
        """Questions of a complete run."""
        if not self.tuning:
            return []
        questions = self.experiment.questions
        return (
            [thinned(question) for question in questions] if self.experiment.settings.thin_questions else [*questions]
        )

    @property
    def jobs(self) -> list[Job]:
        """Jobs of all methods and candidates, seed by seed, so that an interrupted run has complete first seeds."""
        experiment = self.experiment
        runs = [(method, condition) for method in self.methods for condition in experiment.conditions_of(method)]
        for question in self.questions:
            for candidate in question.candidates:
                conditions = question.conditions or experiment.conditions_of(candidate.method)
                runs += [(candidate.method, condition) for condition in conditions]
        jobs = [method.job(seed, experiment.conditions[condition]) for seed in self.seeds for method, condition in runs]
        return list(dict.fromkeys(jobs))


def thinned(question: Question) -> Question:
    """The question with its first and last candidate only."""
    candidates: Sequence = question.candidates
    return replace(question, candidates=[candidates[0], *candidates[1:][-1:]])
