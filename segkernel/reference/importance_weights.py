"""Importance weights of the trained policy against the policy that sampled."""

import torch
from torch import Tensor

from segkernel.reference.rows import compute_dtype, per_row, valid_tokens


def importance_weights(
    logprobs: Tensor,
    rollout_logprobs: Tensor,
    mask: Tensor | None = None,
    *,
    level: str = "token",
    ids: Tensor | None = None,
    num_segments: int | None = None,
    average: str = "mean",
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
    mode: str = "clip",
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    rows = valid_tokens(logprobs, mask, cu_seqlens)
    dtype = compute_dtype(logprobs.new_empty(0).to(torch.promote_types(logprobs.dtype, rollout_logprobs.dtype)))
    log_ratios = (logprobs.to(dtype) - rollout_logprobs.to(dtype)).flatten()
    low = per_row(-torch.inf if low is None else low, len(rows), like=log_ratios)  # [B]
    high = per_row(torch.inf if high is None else high, len(rows), like=log_ratios)

    weights = torch.zeros_like(log_ratios)
    keep = torch.zeros_like(log_ratios, dtype=torch.bool)
    for b, tokens in enumerate(rows):
        if ids is not None and num_segments is not None:
            together = [tokens[ids.flatten()[tokens] == k] for k in range(num_segments)]
        else:
            together = list(tokens[:, None]) if level == "token" else [tokens]
        for members in together:
            total = log_ratios[members].sum()
            ratio = (total / max(len(members), 1) if average == "mean" else total).exp()
            inside = bool(low[b] <= ratio <= high[b])
            weights[members] = ratio.clamp(low[b], high[b]) if mode == "clip" else ratio * inside
            keep[members] = mode == "clip" or inside
    return weights.view(logprobs.shape), keep.view(logprobs.shape)
