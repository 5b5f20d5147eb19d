"""Variants of PPO's advantages: over which tokens they are scaled, and against which baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from segkernel.training import PPOTrainer
from segkernel.training.trainer.batches import Batch


class OverKeptTokens(PPOTrainer):
    """Mixin of PPO trainers: advantages are scaled to mean 0 over the tokens of the policy loss only."""

    def policy_mask(self, batch: Batch) -> Tensor:
        self.kept = super().policy_mask(batch) & batch["response_mask"]
        return self.kept

    def whiten(self, advantages: Tensor, error: Tensor, mask: Tensor) -> Tensor:
        return super().whiten(advantages, error, self.kept)


@dataclass(frozen=True)
class Advantages:
    """A variant: mixins of the trainer, and options of its config."""

    mixins: tuple[type[PPOTrainer], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def of(self, trainer_type: type[PPOTrainer]) -> type[PPOTrainer]:
        """The trainer with the mixins."""
        return type(trainer_type.__name__, (*self.mixins, trainer_type), {})


UNCHANGED = "values"
ADVANTAGES = {
    UNCHANGED: Advantages(),
    "values, over kept tokens": Advantages(mixins=(OverKeptTokens,)),
    "rollout mean": Advantages(options={"advantage_baseline": "rollout"}),
}
