"""Files of one seed: models, pairs and results of finished tasks."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.experiments.settings import Settings
from benchmarks.experiments.tasks import Task
from examples.capitals.pairs import Pair
from examples.capitals.task import make_tokenizer
from examples.capitals.training import Settings as TaskSettings
from examples.capitals.training import load_policy, trainer_options


class Workspace:
    """Shared files of one seed's tasks, in a folder below `root`."""

    def __init__(self, root: Path, settings: Settings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.folder = root / f"seed-{seed}"

    @property
    def task_settings(self) -> TaskSettings:
        return self.settings.of_seed(self.seed)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return make_tokenizer()

    def model_folder(self, task: Task) -> Path:
        return self.folder / task.name

    def reward_folder(self, task: Task, kind: str = "reward") -> Path:
        """Folder of the reward model that gives this task's rewards."""
        return self.model_folder(Task(self.seed, kind, pairs=task.rewards))

    def policy(self, task: Task | None = None) -> PreTrainedModel:
        """A task's trained policy; without a task, the start model."""
        return load_policy(self.model_folder(task or Task(self.seed, "start")))

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

    def write_pairs(self, name: str, pairs: list[Pair]) -> None:
        write_atomically(self.folder / f"{name}-pairs.json", json.dumps([asdict(pair) for pair in pairs]))

    def policy_options(self, task: Task) -> dict[str, Any]:
        """Trainer options shared by all methods."""
        size = self.settings.policy_batch_size
        assert task.learning_rate is not None  # since the task trains a policy
        options = trainer_options(
            self.task_settings, steps=self.settings.task.policy_steps, batch_size=size, learning_rate=task.learning_rate
        )
        return {"output_dir": str(self.model_folder(task)), **options}

    def result(self, task: Task) -> dict[str, Any] | None:
        """Stored result of a task, or `None`."""
        path = self._result_path(task)
        return json.loads(path.read_text()) if path.is_file() else None

    def finished(self, task: Task) -> dict[str, Any]:
        """Stored result of a finished task.

        Raises:
            FileNotFoundError: the task has no result.
        """
        result = self.result(task)
        if result is None:
            raise FileNotFoundError(f"task: expected a result of {task.name!r} in {self.folder}, got none")
        return result

    def store(self, task: Task, result: dict[str, Any]) -> None:
        write_atomically(self._result_path(task), json.dumps(result, indent=1))

    def clear(self, task: Task) -> None:
        """Delete a task's files, which a killed run may have left incomplete."""
        shutil.rmtree(self.model_folder(task), ignore_errors=True)

    def _result_path(self, task: Task) -> Path:
        return self.folder / "results" / f"{task.name}.json"


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a killed run leaves either the old or the new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)
