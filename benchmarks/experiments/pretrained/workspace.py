"""Workspace of an experiment on a pretrained model: models on a frozen trunk, rows of pairs, options of trainers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.experiments.framework.jobs import Job
from benchmarks.experiments.framework.workspace import Workspace
from benchmarks.experiments.policies.logprobs import PairLogprobs, pair_logprobs
from benchmarks.experiments.pretrained.models import Models, converted
from benchmarks.experiments.pretrained.settings import PretrainedSettings
from segkernel.training.rewards.reward_model import set_score_scale

SettingsType = TypeVar("SettingsType", bound=PretrainedSettings)


@lru_cache(maxsize=1)  # the hidden states of both caches take up to 576 MB each in bfloat16 with SmolLM2
def models_of(name: str, trained_layers: int, dtype: str, reward_layers: int | None, seed: int) -> Models:
    return Models(name, trained_layers, getattr(torch, dtype), reward_layers)


class PretrainedWorkspace(Workspace[SettingsType]):
    """Workspace whose models share one frozen trunk. A subclass says where the pairs are."""

    @property
    def measured_batch(self) -> int:
        """Number of responses in a forward pass when a policy is measured."""
        return 32

    @property
    def models(self) -> Models:
        folder = converted(self.settings.model, self.folder.parent / "start-model")
        settings = self.settings
        return models_of(str(folder), settings.trained_layers, settings.dtype, settings.reward_layers, self.seed)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.models.tokenizer

    def policy(self, job: Job | None = None) -> PreTrainedModel:
        """The policy that a job trained; without a job, the start model."""
        return self.models.policy(None if job is None else self.job_folder(job))

    def reward_model(self, job: Job) -> PreTrainedModel:
        """The reward model that a job trained, with the score that it was trained with."""
        model = self.models.reward_model(self.job_folder(job))
        set_score_scale(model, self.finished(job)["score_scale"])
        return model

    @abstractmethod
    def training_rows(self, source: str) -> list[dict[str, Any]]:
        """Rows of token ids that policies train on, from a source of pairs."""

    @abstractmethod
    def held_out_rows(self) -> list[dict[str, Any]]:
        """Rows of the held-out pairs on which the policies are measured."""

    def token_credit(self, ids: Sequence[int]) -> list[int] | None:
        """True credit of each token of a response; `None` where it is not known."""
        return None

    def start_logprobs(self) -> list[PairLogprobs]:
        """Log-probabilities of the held-out pairs under the start model."""
        return pair_logprobs(self.policy(), self.held_out_rows(), batch_size=self.measured_batch)

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
            "use_cpu": self.models.device.type == "cpu",
            "dataloader_pin_memory": False,
        }

    def policy_options(self, job: Job) -> dict[str, Any]:
        """Trainer options shared by all methods, then the job's own."""
        options: dict[str, Any] = dict(job.step.options)
        shared = self.trainer_options(job, steps=self.settings.policy_steps, learning_rate=options.pop("learning_rate"))
        return {**shared, **options}
