"""Generalized advantage estimation (arXiv 1506.02438, eq. 16) over valid tokens."""

import torch
from torch import Tensor

from segkernel.reference.rows import compute_dtype, per_row, valid_tokens


def gae(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    *,
    gamma: float | Tensor = 1.0,
    lam: float | Tensor = 0.95,
    value_lam: float | Tensor | None = None,
    holes: str = "skip",
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    rows = valid_tokens(rewards, mask, cu_seqlens)
    valid = (torch.ones_like(rewards) if mask is None else mask).flatten() != 0
    r = rewards.to(compute_dtype(rewards)).flatten().masked_fill(~valid, 0)
    v = values.to(compute_dtype(rewards)).flatten().masked_fill(~valid, 0)
    gamma, lam = per_row(gamma, len(rows), like=r), per_row(lam, len(rows), like=r)  # [B]
    value_lam = lam if value_lam is None else per_row(value_lam, len(rows), like=r)

    advantages, returns = torch.zeros_like(r), torch.zeros_like(r)
    for b, tokens in enumerate(rows):
        steps = torch.arange(int(tokens[0]), int(tokens[-1]) + 1) if holes == "decay" and len(tokens) else tokens
        next_value = next_advantage = next_of_value_lam = torch.zeros((), dtype=r.dtype, device=r.device)
        for t in steps.flip(0):
            delta = r[t] + gamma[b] * next_value - v[t]
            next_advantage = delta + gamma[b] * lam[b] * next_advantage
            next_of_value_lam = delta + gamma[b] * value_lam[b] * next_of_value_lam
            next_value = v[t]
            if valid[t]:
                advantages[t], returns[t] = next_advantage, next_of_value_lam + v[t]
    return advantages.view(rewards.shape), returns.view(rewards.shape)
