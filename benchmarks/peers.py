"""What segkernel is measured against: the idioms of today, each the best version of itself that we could write.

A library's functions are called where it is installed; everything else needs torch alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def eager_logprobs_and_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The three lines that everyone writes first."""
    logprobs = torch.log_softmax(logits, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, labels[..., None])[..., 0], entropy


def eager_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    return torch.log_softmax(logits, dim=-1).gather(-1, labels[..., None])[..., 0]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)


@cache
def installed(module: str, name: str) -> Any:
    """`module.name`, or None where the module cannot be imported, whatever the reason, or has no such name."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except Exception:
        return None


def materialised_logprobs(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """The LM head under plain autograd: all logits in memory."""
    return -functional.cross_entropy(functional.linear(hidden, weight).float(), labels, reduction="none")


def trl_chunked() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """TRL's LM head, in chunks of the vocabulary as wide as its trainers ask for."""
    chunked = installed("trl.kernels.chunked_logprob", "ChunkedLogProbFunction")
    return chunked and (
        lambda hidden, weight, labels: chunked.apply(hidden, weight, None, labels, 1.0, 32768, None, 1.0, ())[0]
    )


def vectorised_segment(rewards: Tensor, threshold: float, low: float, high: float, sign: int) -> tuple[Tensor, ...]:
    """Pivots, trigger, ids, rewards, signs and mask in whole-tensor torch operations."""
    rows, length = rewards.shape
    starts = torch.empty_like(rewards, dtype=torch.bool)
    starts[:, 0] = True
    torch.gt((rewards[:, 1:] - rewards[:, :-1]).abs(), threshold, out=starts[:, 1:])
    events = (rewards > high).to(torch.int32) - (rewards < low).to(torch.int32)
    device = rewards.device
    positions = torch.arange(length, dtype=torch.int32, device=device)
    last_event = torch.where(events != 0, positions, -1).cummax(1).values
    states = torch.where(last_event >= 0, events.gather(1, last_event.clamp(min=0).long()), 0)
    starts[:, 1:] |= states[:, 1:] != states[:, :-1]
    ids = starts.cumsum(1) - 1
    counts = ids[:, -1] + 1
    ones = torch.ones(1, 1, dtype=torch.int32, device=device).expand(rows, length)
    lengths = torch.zeros(rows, length, dtype=torch.int32, device=device).scatter_add_(1, ids, ones)
    sums = torch.zeros_like(rewards).scatter_add_(1, ids, rewards)
    signs = torch.zeros(rows, length, dtype=torch.int8, device=device).scatter_(1, ids, states.to(torch.int8))
    return ids.int(), counts.int(), lengths, sums / lengths.clamp(min=1), signs, states == sign


def looped_segment(rewards: Tensor, threshold: float, low: float, high: float, sign: int) -> tuple[Tensor, ...]:
    """One `.item()` per token, as the trainers of the papers do it."""
    rows, length = rewards.shape
    ids = torch.zeros(rows, length, dtype=torch.int32)
    counts = torch.zeros(rows, dtype=torch.int32)
    lengths = torch.zeros(rows, length, dtype=torch.int32)
    segment_rewards = torch.zeros(rows, length)
    signs = torch.zeros(rows, length, dtype=torch.int8)
    mask = torch.zeros(rows, length, dtype=torch.bool)
    for row in range(rows):
        segment, state, previous, total, count = -1, 0, 0.0, 0.0, 0
        for t in range(length):
            reward = rewards[row, t].item()
            state_before = state
            state = 1 if reward > high else -1 if reward < low else state
            if segment < 0 or abs(reward - previous) > threshold or state != state_before:
                segment, total, count = segment + 1, 0.0, 0
            total, count, previous = total + reward, count + 1, reward
            ids[row, t] = segment
            lengths[row, segment] = count
            segment_rewards[row, segment] = total / count
            signs[row, segment] = state
            mask[row, t] = state == sign
        counts[row] = segment + 1
    return ids, counts, lengths, segment_rewards, signs, mask


def looped_gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """The loop over steps that PPO trainers have: vectorised over rows, one torch operation after another in time."""
    length = rewards.shape[1]
    last = rewards.new_zeros(rewards.shape[0])
    reversed_advantages = []
    for t in reversed(range(length)):
        next_values = values[:, t + 1] if t < length - 1 else 0.0
        delta = rewards[:, t] + gamma * next_values - values[:, t]
        last = delta + gamma * lam * last
        reversed_advantages.append(last)
    advantages = torch.stack(reversed_advantages[::-1], dim=1)
    return advantages, advantages + values
