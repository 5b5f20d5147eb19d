"""Variants of PPO's advantages: over which tokens they are scaled, and against which baseline."""

from __future__ import annotations

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


class AgainstRolloutMean(PPOTrainer):
    """Mixin of PPO trainers: the baseline of a token's return is the mean of the rollout, not its value."""

    def policy_mask(self, batch: Batch) -> Tensor:
        self.values = batch["values"]
        return super().policy_mask(batch)

    def whiten(self, advantages: Tensor, error: Tensor, mask: Tensor) -> Tensor:
        return super().whiten(advantages + self.values, error, mask)


UNCHANGED = "values"
ADVANTAGES: dict[str, tuple[type[PPOTrainer], ...]] = {
    UNCHANGED: (),
    "values, over kept tokens": (OverKeptTokens,),
    "rollout mean": (AgainstRolloutMean,),
}


def with_advantages(trainer_type: type[PPOTrainer], name: str) -> type[PPOTrainer]:
    """The trainer with the advantages of this name."""
    return type(trainer_type.__name__, (*ADVANTAGES[name], trainer_type), {})
