"""KL divergence over the `K` tokens whose log-probabilities under the other model are known, and the rest as one."""

import torch
from torch import Tensor

from segkernel.reference.rows import compute_dtype
from segkernel.reference.token_divergences import kl
from segkernel.reference.token_logprobs import per_valid


def topk_divergence(
    logits: Tensor,
    ids: Tensor,
    other_logprobs: Tensor,
    mask: Tensor | None = None,
    *,
    kind: str = "kl",
    tail: bool = True,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    divergences = logits.new_zeros(logits.shape[:-1], dtype=compute_dtype(logits))
    valid = torch.ones_like(divergences, dtype=torch.bool) if mask is None else mask != 0
    z = logits[valid].to(divergences.dtype) * logit_scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    log_softmax = (z / per_valid(temperature, valid)).log_softmax(-1)
    rows = []
    for log_p, row_ids, log_q in zip(log_softmax, ids[valid], other_logprobs[valid].detach(), strict=True):
        known = row_ids != -100
        p, q = log_p[row_ids[known].long()], log_q[known].to(log_p.dtype)
        if tail:
            smallest = torch.finfo(log_p.dtype).eps
            p, q = (torch.cat([log, (1 - log.exp().sum()).clamp(min=smallest).log()[None]]) for log in (p, q))
        terms = kl(p, q) if kind == "kl" else kl(q, p)
        rows.append(terms if known.any() else terms.new_zeros(()))
    return divergences.masked_scatter(valid, torch.stack(rows)) if rows else divergences
