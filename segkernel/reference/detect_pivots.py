"""Pivot tokens: their reward differs from the previous valid token's by more than a threshold."""

import torch
from torch import Tensor

from segkernel.reference.rows import compute_dtype, per_row, valid_tokens


def detect_pivots(
    rewards: Tensor,
    mask: Tensor | None = None,
    *,
    threshold: float | Tensor,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    rows = valid_tokens(rewards, mask, cu_seqlens)
    r = rewards.to(compute_dtype(rewards)).flatten()
    threshold = per_row(threshold, len(rows), like=r)  # [B]

    pivots = torch.zeros(r.shape, dtype=torch.bool, device=r.device)
    for b, tokens in enumerate(rows):
        first, previous, current = tokens[:1], tokens[:-1], tokens[1:]
        pivots[first] = True
        pivots[current] = (r[current] - r[previous]).abs() > threshold[b]
    return pivots.view(rewards.shape)
