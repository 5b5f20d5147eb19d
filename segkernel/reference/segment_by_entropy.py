"""Segmentation at tokens of high entropy."""

import torch
from torch import Tensor

from segkernel.reference.rows import compute_dtype, per_row, valid_tokens


def segment_by_entropy(
    entropy: Tensor,
    mask: Tensor | None = None,
    *,
    threshold: float | Tensor,
    min_length: int = 1,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    rows = valid_tokens(entropy, mask, cu_seqlens)
    h = entropy.to(compute_dtype(entropy)).flatten()
    threshold = per_row(threshold, len(rows), like=h)  # [B]

    ids = torch.full(h.shape, -1, dtype=torch.int32, device=h.device)
    counts = torch.zeros(len(rows), dtype=torch.int32, device=h.device)
    for b, tokens in enumerate(rows):
        uncertain = (h[tokens] > threshold[b]).tolist()
        segment, length = -1, 0  # of the running segment
        row_ids = []
        for is_uncertain in uncertain:
            if segment < 0 or (is_uncertain and length >= min_length):
                segment, length = segment + 1, 0
            length += 1
            row_ids.append(segment)
        ids[tokens] = torch.tensor(row_ids, dtype=torch.int32, device=h.device)
        counts[b] = segment + 1
    return ids.view(entropy.shape), counts
