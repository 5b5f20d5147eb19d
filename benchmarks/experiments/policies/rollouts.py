"""Rollouts of PPO with the tokens that its policy loss covered."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from segkernel.training import PPOTrainer

NAMES = ("input_ids", "attention_mask", "response_mask", "sequence_rewards")


def observe_rollouts(trainer: PPOTrainer) -> list[dict[str, Tensor]]:
    """List that receives every rollout of the trainer with its `policy_mask`."""
    rollouts: list[dict[str, Tensor]] = []
    policy_mask: Any = trainer.policy_mask

    def observed(batch: dict[str, Tensor]) -> Tensor:
        mask = policy_mask(batch) & batch["response_mask"]
        rollouts.append({**{name: batch[name] for name in NAMES}, "policy_mask": mask})
        return mask

    trainer.policy_mask = observed  # type: ignore[method-assign]
    return rollouts
