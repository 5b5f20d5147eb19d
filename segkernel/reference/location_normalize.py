"""Location-aware normalization of segment rewards (Segment-level RLHF, arXiv 2501.02790)."""

import math

import torch
from torch import Tensor

from segkernel.reference.rows import compute_dtype


def location_normalize(
    segment_rewards: Tensor,
    counts: Tensor,
    *,
    mean: tuple[float, float],
    std: tuple[float, float],
    min_std: float = 1e-6,
) -> Tensor:
    normalized = torch.zeros_like(segment_rewards, dtype=compute_dtype(segment_rewards))  # [B, S]
    for b, n in enumerate(counts.tolist()):
        for k in range(min(n, segment_rewards.shape[1])):
            p = (k + 1) / n
            location_mean = mean[0] * math.log(p) + mean[1]
            location_std = max(std[0] * math.log(p) + std[1], min_std)
            normalized[b, k] = (segment_rewards[b, k].double() - location_mean) / location_std
    return normalized
