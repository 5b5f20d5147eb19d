"""Files of one seed: encoded pairs with the start model's log-probabilities, and weights of models."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.experiments.framework.data import load_rows
from benchmarks.experiments.framework.jobs import Job
from benchmarks.experiments.framework.workspace import write_atomically
from benchmarks.experiments.gsm8k.pairs import Row, split_pairs
from benchmarks.experiments.gsm8k.settings import GSM8KSettings
from benchmarks.experiments.policies.logprobs import PairLogprobs
from benchmarks.experiments.pretrained.workspace import PretrainedWorkspace


class GSM8KWorkspace(PretrainedWorkspace[GSM8KSettings]):
    """Workspace whose pairs are split and encoded once."""

    @property
    def micro_batch(self) -> int:
        """Number of pairs in a forward and backward pass: a whole batch on a GPU, whose memory is large enough."""
        settings = self.settings
        return settings.micro_batch if self.models.device.type == "cpu" else settings.batch_size

    @property
    def measured_batch(self) -> int:
        return 2 * self.micro_batch

    def split(self) -> float:
        """Split and encode the pairs; returns the share of pairs that are too long.

        Raises:
            ValueError: no pair of a side is short enough.
        """
        settings = self.settings
        found = split_pairs(
            load_rows(self.folder.parent),
            self.tokenizer,
            held_out=settings.held_out_problems,
            max_length=settings.max_length,
            seed=self.seed,
        )
        if not found.training or not found.held_out:
            raise ValueError(f"data: expected pairs of at most {settings.max_length} tokens on both sides, got none")
        self._write("pairs", found._asdict())
        return found.too_long

    def pairs(self, name: str) -> list[Row]:
        """All rows of a side of the split: `training` or `held_out`."""
        rows: list[Row] = self._read("pairs")[name]
        return rows

    def training_rows(self, source: str) -> list[Row]:
        return self.pairs("training")[: self.settings.policy_pairs]

    def held_out_rows(self) -> list[Row]:
        return self.pairs("held_out")[: self.settings.measured_pairs]

    def measure_start(self) -> None:
        """Compute the log-probabilities that `start_logprobs` returns."""
        self._write("start-logprobs", super().start_logprobs())

    def start_logprobs(self) -> list[PairLogprobs]:
        return [(chosen, rejected) for chosen, rejected in self._read("start-logprobs")]

    def trainer_options(self, job: Job, *, steps: int, learning_rate: float) -> dict[str, Any]:
        size = self.micro_batch
        return {
            **super().trainer_options(job, steps=steps, learning_rate=learning_rate),
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": self.settings.batch_size // size,
            "per_device_eval_batch_size": size,
        }

    def _write(self, name: str, content: Any) -> None:
        write_atomically(self.folder / f"{name}.json", json.dumps(content))

    def _read(self, name: str) -> Any:
        return json.loads((self.folder / f"{name}.json").read_text())
