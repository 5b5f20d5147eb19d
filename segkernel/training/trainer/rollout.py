"""Base class of trainers on rollouts, responses that the current policy samples during training.

A rollout answers a chunk of prompts once; the Trainer then takes `rollout_epochs` steps on each of its minibatches.
Prompts, random numbers and minibatches are functions of the seed, so a run resumes to the same bits from any step, and
two processes make the same rollouts as one.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from segkernel import _validate
from segkernel.training.models.response_tokens import ResponseTokens
from segkernel.training.sampling import SamplingOptions, sample_responses
from segkernel.training.trainer.base import SegkernelConfig, SegkernelTrainer
from segkernel.training.trainer.batches import Batch, on_device
from segkernel.training.trainer.unused_options import UNUSED, UNUSED_IN_ROLLOUTS


@dataclass
class RolloutConfig(SamplingOptions, SegkernelConfig):
    """Settings of trainers on rollouts; `per_device_train_batch_size` is the number of responses in a minibatch."""

    minibatches: int = field(
        default=1, metadata={"help": "Minibatches per rollout, each of per_device_train_batch_size responses."}
    )
    rollout_epochs: int = field(default=4, metadata={"help": "Passes over the minibatches of a rollout."})

    unused_options: ClassVar[Mapping[str, str]] = {**UNUSED, **UNUSED_IN_ROLLOUTS}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("minibatches", "rollout_epochs"):
            _validate.minimum(name, getattr(self, name), 1)
        if self.updates % self.gradient_accumulation_steps:
            raise ValueError(
                f"gradient_accumulation_steps: expected a divisor of minibatches * rollout_epochs = {self.updates}, "
                f"so that no step mixes rollouts, got {self.gradient_accumulation_steps}"
            )

    def run_options(self) -> dict[str, Any]:
        return {**super().run_options(), "prompts_per_rollout": self.prompts_per_rollout}

    @property
    def prompts_per_rollout(self) -> int:
        """Number of prompts that all processes together answer in one rollout."""
        chunk: int = self.minibatches * self.per_device_train_batch_size * self.world_size
        return chunk

    def check_prompts(self, prompts: int) -> None:
        """Refuse fewer prompts than one rollout answers.

        Raises:
            ValueError: there are fewer.
        """
        if prompts < self.prompts_per_rollout:
            raise ValueError(
                f"train_dataset: expected at least {self.prompts_per_rollout} prompts, one rollout, got {prompts}"
            )

    @property
    def updates(self) -> int:
        """Number of minibatches trained on per rollout, over all of its epochs."""
        return self.minibatches * self.rollout_epochs


class RolloutTrainer(SegkernelTrainer, ABC):
    """Trainer on minibatches of rollouts; subclasses implement `collect`, and `compute_loss` of a minibatch."""

    args: RolloutConfig
    response_tokens: ResponseTokens  # set by subclasses

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rollouts = RolloutState()
        self.step_items: Any = {}  # `Items` of the minibatches of the current optimizer step
        self.rollout_sampler()  # refuses too few prompts before training starts

    @abstractmethod
    def collect(self, prompts: list[list[int]], keys: list[tuple[int, ...]]) -> Batch:
        """Sample one response per prompt with random numbers seeded by `keys`.

        Returns:
            Tensors with one row per prompt.
        """

    def sample(self, prompts: list[list[int]], keys: list[tuple[int, ...]] | None) -> list[list[int]]:
        """Responses of the current policy; greedy without `keys`."""
        return sample_responses(
            self.accelerator.unwrap_model(self.model_wrapped),
            prompts,
            keys,
            self.args,
            tokens=self.response_tokens,
            batch_size=len(prompts),
        )

    def rollout_sampler(self) -> "RolloutSampler":
        """Order of the prompts; one chunk is the rollout of all processes."""
        rows: Any = self.train_dataset
        self.args.check_prompts(len(rows))
        return RolloutSampler(len(rows), self.args.prompts_per_rollout, self.args.updates, self.args.seed)

    def get_train_dataloader(self) -> DataLoader[Any]:
        rows: Any = self.train_dataset
        size = self.args.minibatches * self.args.per_device_train_batch_size
        loader = DataLoader(rows, batch_size=size, sampler=self.rollout_sampler(), collate_fn=self.data_collator)
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        # These batches hold prompts; `training_step` counts the items of a step once its rollout is sampled.
        return list(islice(epoch_iterator, num_batches)), {}

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        state, prompts = self.rollouts, inputs["prompts"]
        if state.minibatches_seen % self.args.updates == 0:
            number, first = state.minibatches_seen // self.args.updates, self.args.process_index * len(prompts)
            state.rollout = self.collect(prompts, [(self.args.seed, number, first + i) for i in range(len(prompts))])
        accumulated = self.args.gradient_accumulation_steps
        if state.minibatches_seen % accumulated == 0:
            of_step = range(state.minibatches_seen, state.minibatches_seen + accumulated)
            self.step_items = self.total_items([self.minibatch(index) for index in of_step])
        minibatch = self.minibatch(state.minibatches_seen)
        state.minibatches_seen += 1
        return super().training_step(model, minibatch, self.step_items)

    def minibatch(self, index: int) -> Batch:
        """Minibatch of the current rollout: every `minibatches`-th row; the prompts are in random order already."""
        return rows_of(self.rollouts.rollout, slice(index % self.args.minibatches, None, self.args.minibatches))

    def restore(self, checkpoint: str) -> None:
        self.rollouts = RolloutState.load(checkpoint, self.args.process_index, self.args.device)

    def _save_rng_state(self, output_dir: str) -> None:
        # Saved next to the Trainer's own state of each process.
        super()._save_rng_state(output_dir)
        self.rollouts.save(output_dir, self.args.process_index)


class RolloutSampler(Sampler[int]):
    """Chunks of prompts, one chunk per rollout, each repeated once per minibatch trained on (`repeats`).

    The order is a function of seed and epoch. Prompts left over at the end of an epoch, too few for a chunk, are
    skipped.

    Example:
        >>> sampler = RolloutSampler(prompts=5, chunk=2, repeats=2, seed=0)
        >>> order = list(sampler)
        >>> order[:2] == order[2:4], order[4:6] == order[6:], len(set(order)), len(order) == len(sampler)
        (True, True, 4, True)
    """

    def __init__(self, prompts: int, chunk: int, repeats: int, seed: int) -> None:
        self.prompts, self.chunk, self.repeats, self.seed = prompts, chunk, repeats, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.prompts // self.chunk * self.chunk * self.repeats

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.prompts)
        for first in range(0, self.prompts - self.chunk + 1, self.chunk):
            for _ in range(self.repeats):
                yield from order[first : first + self.chunk].tolist()


@dataclass
class RolloutState:
    """Resume state of a run on rollouts: the number of minibatches trained on, and the current rollout."""

    minibatches_seen: int = 0
    rollout: Batch = field(default_factory=dict)

    def save(self, checkpoint: str | Path, process: int) -> None:
        torch.save({"minibatches_seen": self.minibatches_seen, "rollout": self.rollout}, _path(checkpoint, process))

    @classmethod
    def load(cls, checkpoint: str | Path, process: int, device: torch.device) -> "RolloutState":
        path = _path(checkpoint, process)
        if not path.is_file():
            raise FileNotFoundError(
                f"resume_from_checkpoint: expected {path.name} in {str(checkpoint)!r}; resume with as many processes"
            )
        state = torch.load(path, map_location="cpu", weights_only=True)
        return cls(state["minibatches_seen"], on_device(state["rollout"], device))


def _path(checkpoint: str | Path, process: int) -> Path:
    return Path(checkpoint) / f"rollout_{process}.pt"


def rows_of(batch: Batch, rows: slice) -> Batch:
    return {name: values[rows] for name, values in batch.items()}
