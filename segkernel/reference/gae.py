"""Generalized advantage estimation (arXiv 1506.02438, eq. 16) over valid tokens only."""

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
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    rows = valid_tokens(rewards, mask, cu_seqlens)
    r, v = rewards.to(compute_dtype(rewards)).flatten(), values.to(compute_dtype(rewards)).flatten()
    gamma, lam = per_row(gamma, len(rows), like=r), per_row(lam, len(rows), like=r)  # [B]

    advantages, returns = torch.zeros_like(r), torch.zeros_like(r)
    for b, tokens in enumerate(rows):
        next_value = next_advantage = torch.zeros((), dtype=r.dtype, device=r.device)
        for t in tokens.flip(0):
            delta = r[t] + gamma[b] * next_value - v[t]
            advantages[t] = delta + gamma[b] * lam[b] * next_advantage
            returns[t] = advantages[t] + v[t]
            next_value, next_advantage = v[t], advantages[t]
    return advantages.view(rewards.shape), returns.view(rewards.shape)
