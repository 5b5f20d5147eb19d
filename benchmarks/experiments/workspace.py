"""The files of one seed: models, pairs, and the results of finished tasks."""

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
from examples.capitals.pipeline import Settings as TaskSettings
from examples.capitals.pipeline import clone, trainer_options
from examples.capitals.task import make_tokenizer

# A pair is adversarial when its preference contradicts more than this share of its parts.
ADVERSARIAL = 1 / 2


class Workspace:
    """Everything that the tasks of one seed share, below `root`."""

    def __init__(self, root: Path, settings: Settings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.folder = root / f"seed-{seed}"

    @property
    def task_settings(self) -> TaskSettings:
        return self.settings.of_seed(self.seed)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return make_tokenizer(key=True)

    def model_folder(self, task: Task) -> Path:
        return self.folder / task.name

    def reward_folder(self, task: Task, kind: str = "reward") -> Path:
        """Where the reward model is that this task's rewards come from."""
        return self.model_folder(Task(self.seed, kind, pairs=task.rewards))

    def policy(self, task: Task | None = None) -> PreTrainedModel:
        """The policy that a task has trained, or the start model."""
        return clone(self.model_folder(task or Task(self.seed, "start")))

    def pairs(self, source: str) -> list[Pair]:
        """The training pairs of a source, `all` or `adversarial`, or those `held out`."""
        name = "held-out" if source == "held out" else "training"
        pairs = [Pair(**row) for row in json.loads((self.folder / f"{name}-pairs.json").read_text())]
        return [pair for pair in pairs if source != "adversarial" or is_adversarial(pair)]

    def policy_pairs(self, source: str) -> list[Pair]:
        """Those of them that policies are trained on."""
        return self.pairs(source)[: self.settings.policy_pairs]

    def adversarial_held_out(self) -> list[Pair]:
        return [pair for pair in self.pairs("held out") if is_adversarial(pair)]

    def write_pairs(self, name: str, pairs: list[Pair]) -> None:
        write_whole(self.folder / f"{name}-pairs.json", json.dumps([asdict(pair) for pair in pairs]))

    def policy_options(self, task: Task) -> dict[str, Any]:
        """The trainer's options that all methods have in common."""
        size = self.settings.policy_batch_size
        assert task.learning_rate is not None  # since the task trains a policy
        options = trainer_options(
            self.task_settings, steps=self.settings.task.policy_steps, batch_size=size, learning_rate=task.learning_rate
        )
        return {"output_dir": str(self.model_folder(task)), **options}

    def result(self, task: Task) -> dict[str, Any] | None:
        """What a finished task has stored."""
        path = self._result_path(task)
        return json.loads(path.read_text()) if path.is_file() else None

    def finished(self, task: Task) -> dict[str, Any]:
        """The same of a task that must have finished.

        Raises:
            FileNotFoundError: it has not.
        """
        result = self.result(task)
        if result is None:
            raise FileNotFoundError(f"there is no result of {task.name!r} from seed {self.seed} in {self.folder}")
        return result

    def store(self, task: Task, result: dict[str, Any]) -> None:
        write_whole(self._result_path(task), json.dumps(result, indent=1))

    def clear(self, task: Task) -> None:
        """Drop what a killed run has left of this task."""
        shutil.rmtree(self.model_folder(task), ignore_errors=True)

    def _result_path(self, task: Task) -> Path:
        return self.folder / "results" / f"{task.name}.json"


def is_adversarial(pair: Pair) -> bool:
    """
    Example:
        >>> countries = ("*Peru", "Iran", "Latvia")
        >>> is_adversarial(Pair(countries, chosen="Lima; Baghdad; ", rejected="Cusco; Tehran; Riga; "))
        True
    """
    return pair.contradiction > ADVERSARIAL


def write_whole(path: Path, text: str) -> None:
    """A file that is there is complete, whenever the run is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)
