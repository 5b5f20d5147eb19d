"""Normalization of rewards within groups of samples."""

from collections import defaultdict

import torch
from torch import Tensor

from segkernel.reference.rows import compute_dtype


def group_normalize(
    values: Tensor,
    counts: Tensor,
    group: Tensor,
    *,
    per: str = "group",
    scale: bool = True,
    eps: float = 1e-6,
) -> Tensor:
    positions = defaultdict(list)  # of the values that are normalized together
    for b, (count, prompt) in enumerate(zip(counts.tolist(), group.tolist(), strict=True)):
        for k in range(min(count, values.shape[1])):
            positions[prompt, k if per == "segment" else None].append((b, k))

    normalized = torch.zeros_like(values, dtype=compute_dtype(values))  # [B, S]
    for together in positions.values():
        rows, columns = (torch.tensor(index, device=values.device) for index in zip(*together, strict=True))
        x = values[rows, columns].double()
        if (x == x[0]).all():  # one value, or equal ones: 0
            continue
        deviations = x - x.mean()
        normalized[rows, columns] = (deviations / (x.std() + eps) if scale else deviations).to(normalized.dtype)
    return normalized
