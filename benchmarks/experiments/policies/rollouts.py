"""Observed training: rollouts, and the tokens that a loss covered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from benchmarks.experiments.policies.credit import TrainedResponse
from segkernel.training import PPOTrainer

NAMES = ("input_ids", "attention_mask", "response_mask")

Batch = Mapping[str, Tensor]


def observe_rollouts(trainer: PPOTrainer) -> list[dict[str, Tensor]]:
    """List that receives every rollout of the trainer with its `policy_mask`, as tensors on the CPU."""
    rollouts: list[dict[str, Tensor]] = []
    policy_mask: Any = trainer.policy_mask

    def observed(batch: dict[str, Tensor]) -> Tensor:
        mask = policy_mask(batch) & batch["response_mask"]
        tensors = {**{name: batch[name] for name in (*NAMES, "sequence_rewards")}, "policy_mask": mask}
        rollouts.append({name: tensor.cpu() for name, tensor in tensors.items()})
        return mask

    trainer.policy_mask = observed  # type: ignore[method-assign]
    return rollouts


def observe_selection(trainer: Any, name: str) -> list[dict[str, Tensor]]:
    """List that receives the batch of every call of a trainer's method, and the tokens that the method selected.

    Args:
        trainer: a trainer.
        name: its method, which takes logits and a batch and returns a boolean mask of the batch's tokens.

    Returns:
        By name, `input_ids`, `attention_mask`, `response_mask` and `selected`, each `[N, T]` on the CPU: the responses
        of a pair are rows of their own.
    """
    seen: list[dict[str, Tensor]] = []
    select: Any = getattr(trainer, name)

    def observed(logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
        selected = select(logits, batch)
        tensors = {**{key: batch[key] for key in NAMES if key in batch}, "selected": selected}
        length = selected.shape[-1]
        seen.append({key: tensor.reshape(-1, length).cpu() for key, tensor in tensors.items()})
        return selected

    setattr(trainer, name, observed)
    return seen


def response_rows(batch: Batch, mask: str) -> Iterator[tuple[list[int], list[int], list[bool]]]:
    """Prompt ids, response ids, and a mask over the response tokens, of every row of a batch `[N, T]`."""
    response = batch["response_mask"].bool()
    prompt = batch["attention_mask"].bool() & ~response
    for ids, p, r, kept in zip(batch["input_ids"], prompt, response, batch[mask], strict=True):
        yield ids[p].tolist(), ids[r].tolist(), kept[r].tolist()


def trained_responses(
    batch: Batch, mask: str, signs: Sequence[int], token_credit: Callable[[list[int]], Sequence[int] | None]
) -> list[TrainedResponse]:
    """Responses of a batch `[N, T]` under one of its masks.

    Args:
        batch: a batch on the CPU.
        mask: name of the mask.
        signs: sign of every row's verdict.
        token_credit: true credit of each token of a response.
    """
    return [
        TrainedResponse(kept, token_credit(response), sign)
        for (_, response, kept), sign in zip(response_rows(batch, mask), signs, strict=True)
    ]


def row_tokens(batch: Batch) -> list[tuple[int, ...]]:
    """Token ids of every row of a batch `[N, T]`, without padding.

    Example:
        >>> import torch
        >>> row_tokens({"input_ids": torch.tensor([[5, 6, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])})
        [(5, 6)]
    """
    return [
        tuple(ids[mask].tolist()) for ids, mask in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
    ]


def verdict_signs(rollout: Batch) -> list[int]:
    """Sign of every response's verdict: that of its reward minus the rollout's mean.

    Example:
        >>> import torch
        >>> verdict_signs({"sequence_rewards": torch.tensor([1.0, 2.0, 6.0])})
        [-1, -1, 1]
    """
    rewards = rollout["sequence_rewards"]
    return (rewards - rewards.mean()).sign().int().tolist()


def signs_by_tokens(rollouts: Iterable[Batch]) -> dict[tuple[int, ...], int]:
    """Signs of the responses' verdicts by the token ids of prompt and response."""
    return {
        row: sign for rollout in rollouts for row, sign in zip(row_tokens(rollout), verdict_signs(rollout), strict=True)
    }
