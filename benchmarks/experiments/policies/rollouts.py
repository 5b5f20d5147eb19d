"""Observed training: rollouts, and the tokens that a loss covered."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from segkernel.training import PPOTrainer

NAMES = ("input_ids", "attention_mask", "response_mask")


def observe_rollouts(trainer: PPOTrainer) -> list[dict[str, Tensor]]:
    """List that receives every rollout of the trainer with its `policy_mask`."""
    rollouts: list[dict[str, Tensor]] = []
    policy_mask: Any = trainer.policy_mask

    def observed(batch: dict[str, Tensor]) -> Tensor:
        mask = policy_mask(batch) & batch["response_mask"]
        names = (*NAMES, "sequence_rewards")
        rollouts.append({**{name: batch[name] for name in names}, "policy_mask": mask})
        return mask

    trainer.policy_mask = observed  # type: ignore[method-assign]
    return rollouts


def observe_selection(trainer: Any, name: str) -> list[dict[str, Tensor]]:
    """List that receives the batch of every call of a trainer's method, and the tokens that the method selected.

    Args:
        trainer: a trainer.
        name: its method, which takes logits and a batch and returns a boolean mask of the batch's tokens.

    Returns:
        By name, `input_ids`, `attention_mask`, `response_mask` and `selected`, each `[N, T]`: the responses of a pair
        are rows of their own.
    """
    seen: list[dict[str, Tensor]] = []
    select: Any = getattr(trainer, name)

    def observed(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        selected = select(logits, batch)
        tensors = {**{key: batch[key] for key in NAMES if key in batch}, "selected": selected}
        length = selected.shape[-1]
        seen.append({key: tensor.reshape(-1, length) for key, tensor in tensors.items()})
        return selected

    setattr(trainer, name, observed)
    return seen
