"""Files of one seed of the capitals experiment: start model, pairs, reward models."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.experiments.capitals.settings import CapitalsSettings
from benchmarks.experiments.framework.jobs import Job
from benchmarks.experiments.framework.workspace import Workspace, write_atomically
from examples.capitals.pairs import Pair
from examples.capitals.task import make_tokenizer
from examples.capitals.training import Settings as TaskSettings
from examples.capitals.training import load_policy, trainer_options


class CapitalsWorkspace(Workspace[CapitalsSettings]):
    """Workspace whose start model and pairs have fixed places."""

    @property
    def task_settings(self) -> TaskSettings:
        return self.settings.of_seed(self.seed)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return make_tokenizer()

    @property
    def start_folder(self) -> Path:
        return self.folder / "start"

    def policy(self, job: Job | None = None) -> PreTrainedModel:
        """The policy that a job trained; without a job, the start model."""
        return load_policy(self.start_folder if job is None else self.job_folder(job))

    def pairs(self, source: str) -> list[Pair]:
        """Pairs of a source: `all` or `adversarial` training pairs, or those `held out`."""
        name = "held-out" if source == "held out" else "training"
        pairs = [Pair(**row) for row in json.loads((self.folder / f"{name}-pairs.json").read_text())]
        return [pair for pair in pairs if source != "adversarial" or pair.is_adversarial]

    def policy_pairs(self, source: str) -> list[Pair]:
        """Pairs that policies train on: the first `settings.policy_pairs` of a source."""
        return self.pairs(source)[: self.settings.policy_pairs]

    def adversarial_held_out(self) -> list[Pair]:
        return [pair for pair in self.pairs("held out") if pair.is_adversarial]

    def measured_pairs(self) -> list[Pair]:
        """Held-out pairs on which the preference accuracy of the policies is measured."""
        return self.pairs("held out")[: self.settings.measured_pairs]

    def rows(self, pairs: list[Pair]) -> list[dict[str, Any]]:
        """Pairs as rows for the trainers."""
        return [pair.row(self.tokenizer) for pair in pairs]

    def write_pairs(self, name: str, pairs: list[Pair]) -> None:
        write_atomically(self.folder / f"{name}-pairs.json", json.dumps([asdict(pair) for pair in pairs]))

    def policy_options(self, job: Job) -> dict[str, Any]:
        """Trainer options shared by all methods, then the job's own."""
        options: dict[str, Any] = dict(job.step.options)
        shared = trainer_options(
            self.task_settings,
            steps=self.settings.task.policy_steps,
            batch_size=self.settings.policy_batch_size,
            learning_rate=options.pop("learning_rate"),
        )
        return {"output_dir": str(self.job_folder(job)), **shared, **options}
