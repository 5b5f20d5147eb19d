"""Sum or mean of the token log-probabilities of every row."""

from typing import Any

import torch
from torch import Tensor

from segkernel.reference.rows import valid_tokens
from segkernel.reference.token_logprobs import token_logprobs, valid_labels


def sequence_logprobs(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    reduce: str = "sum",
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    entropy: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    rows = valid_tokens(labels, valid_labels(labels, mask, logits.shape[-1]), cu_seqlens)
    per_token: Any = token_logprobs(
        logits,
        labels,
        mask,
        temperature=temperature,
        logit_scale=logit_scale,
        softcap=softcap,
        entropy=True,
    )
    log_probs, entropies = (reduce_rows(values, rows, weights, reduce) for values in per_token)
    return (log_probs, entropies) if entropy else log_probs


def reduce_rows(values: Tensor, rows: list[Tensor], weights: Tensor | None, reduce: str) -> Tensor:
    values = values.flatten()
    weights = torch.ones_like(values) if weights is None else weights.to(values.dtype).flatten()
    reduced = values.new_zeros(len(rows))
    for b, tokens in enumerate(rows):
        reduced[b] = (weights[tokens] * values[tokens]).sum()
        if reduce == "mean":
            total = weights[tokens].sum()
            reduced[b] = reduced[b] / total if total != 0 else 0
    return reduced
