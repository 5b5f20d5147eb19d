"""Token rewards as differences of prefix scores (R3HF, arXiv 2411.08302)."""

import torch
from torch import Tensor

from segkernel.reference.rows import compute_dtype, per_row, valid_tokens


def redistribute(
    prefix_scores: Tensor,
    mask: Tensor | None = None,
    *,
    initial: float | Tensor = 0.0,
    sequence_rewards: Tensor | None = None,
    mix: float = 1.0,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    rows = valid_tokens(prefix_scores, mask, cu_seqlens)
    s = prefix_scores.to(compute_dtype(prefix_scores)).flatten()
    initial = per_row(initial, len(rows), like=s)  # [B]

    token_rewards = torch.zeros_like(s)
    for b, tokens in enumerate(rows):
        previous = torch.cat([initial[b : b + 1], s[tokens]])[:-1]
        token_rewards[tokens] = mix * (s[tokens] - previous[: len(tokens)])
        if sequence_rewards is not None:
            token_rewards[tokens[-1:]] += (1 - mix) * per_row(sequence_rewards, len(rows), like=s)[b]
    return token_rewards.view(prefix_scores.shape)
