"""Files of one seed: sampled answers, and the weights of reward models and policies."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.experiments.constraints.answers import Answer
from benchmarks.experiments.constraints.models import Models
from benchmarks.experiments.constraints.pairs import Pair, make_pairs
from benchmarks.experiments.constraints.prompts import Prompt, draw_prompts
from benchmarks.experiments.constraints.settings import ConstraintsSettings
from benchmarks.experiments.framework.jobs import Job
from benchmarks.experiments.framework.workspace import Workspace, write_atomically

Answers = list[tuple[Prompt, list[Answer]]]


@lru_cache(maxsize=1)  # the hidden states of one seed's texts take about 300 MB
def models_of(name: str, trained_layers: int, seed: int) -> Models:
    return Models(name, trained_layers)


class ConstraintsWorkspace(Workspace[ConstraintsSettings]):
    """Workspace whose sampled answers have a fixed place."""

    @property
    def models(self) -> Models:
        return models_of(self.settings.model, self.settings.trained_layers, self.seed)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.models.tokenizer

    def policy(self, job: Job | None = None) -> PreTrainedModel:
        """The policy that a job trained; without a job, the start model."""
        return self.models.policy(None if job is None else self.job_folder(job))

    def reward_model(self, job: Job) -> PreTrainedModel:
        return self.models.reward_model(self.job_folder(job))

    def prompts(self, purpose: str, count: int, *, held_out: bool = False) -> list[Prompt]:
        """Prompts of this seed, drawn for a purpose."""
        return list(islice(draw_prompts(random.Random(f"{purpose} {self.seed}"), held_out=held_out), count))

    def write_answers(self, name: str, answers: Answers) -> None:
        write_atomically(self._answers_file(name), answers_to_json(answers))

    def answers(self, name: str) -> Answers:
        """Answers of the start model by prompt: `training` or `held-out`."""
        return answers_from_json(self._answers_file(name).read_text())

    def write_policy_answers(self, job: Job, answers: Answers) -> None:
        write_atomically(self.job_folder(job) / "answers.json", answers_to_json(answers))

    def policy_answers(self, job: Job) -> Answers:
        """Answers by prompt that were sampled to measure the policy of a job."""
        return answers_from_json((self.job_folder(job) / "answers.json").read_text())

    def pairs(self, source: str) -> list[Pair]:
        """Pairs of a source: `all` or `adversarial` training pairs, or those `held out`."""
        pairs = make_pairs(self.answers("held-out" if source == "held out" else "training"), self.seed)
        return [pair for pair in pairs if source != "adversarial" or pair.is_adversarial]

    def policy_pairs(self, source: str) -> list[Pair]:
        """Pairs that policies train on."""
        return self.pairs(source)[: self.settings.policy_pairs]

    def measured_pairs(self) -> list[Pair]:
        """Held-out pairs on which the preference accuracy of the policies is measured."""
        return self.pairs("held out")[: self.settings.measured_pairs]

    def rows(self, pairs: list[Pair]) -> list[dict[str, Any]]:
        """Pairs as rows for the trainers."""
        return [pair.row(self.tokenizer) for pair in pairs]

    def trainer_options(self, job: Job, *, steps: int, learning_rate: float) -> dict[str, Any]:
        """Trainer options that all stages and methods share."""
        return {
            "output_dir": str(self.job_folder(job)),
            "max_steps": steps,
            "per_device_train_batch_size": self.settings.batch_size,
            "per_device_eval_batch_size": 64,
            "learning_rate": learning_rate,
            "lr_scheduler_type": "linear",
            "warmup_steps": steps // 10,
            "seed": self.seed,
            "eval_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "dataloader_pin_memory": False,
        }

    def policy_options(self, job: Job) -> dict[str, Any]:
        """Trainer options shared by all methods, then the job's own."""
        options: dict[str, Any] = dict(job.step.options)
        shared = self.trainer_options(job, steps=self.settings.policy_steps, learning_rate=options.pop("learning_rate"))
        return {**shared, **options}

    def _answers_file(self, name: str) -> Path:
        return self.folder / f"{name}-answers.json"


def answers_to_json(answers: Answers) -> str:
    return json.dumps(
        [{"prompt": asdict(prompt), "answers": [asdict(one) for one in found]} for prompt, found in answers]
    )


def answers_from_json(text: str) -> Answers:
    return [
        (Prompt(**row["prompt"]), [Answer(**{**one, "ids": tuple(one["ids"])}) for one in row["answers"]])
        for row in json.loads(text)
    ]
