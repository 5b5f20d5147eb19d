"""Divergence of `p = softmax(z)` and `q = softmax(z_other)`, `z = cap(logit_scale * x) / temperature`."""

import torch
from torch import Tensor

from segkernel.reference.rows import compute_dtype
from segkernel.reference.token_logprobs import per_valid, valid_labels
from segkernel.types import TokenDivergences


def token_divergences(
    logits: Tensor,
    other_logits: Tensor,
    mask: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    kind: str = "kl",
    beta: float = 0.5,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> TokenDivergences:
    shape = logits.shape[:-1]
    valid = torch.ones(shape, dtype=torch.bool, device=logits.device) if mask is None else mask != 0
    if labels is not None:
        valid = valid_labels(labels, mask, vocabulary=logits.shape[-1])

    def log_softmax(x: Tensor) -> Tensor:
        z = x[valid].to(compute_dtype(x)) * logit_scale  # masked rows are not read
        if softcap is not None:
            z = softcap * torch.tanh(z / softcap)
        return (z / per_valid(temperature, valid)).log_softmax(-1)

    log_p, log_q = log_softmax(logits), log_softmax(other_logits.detach())
    outputs = [divergence(log_p, log_q, kind, beta), entropy(log_p), entropy(log_q)]
    if labels is not None:
        of_label = labels[valid].long()[:, None]
        outputs += [log.gather(-1, of_label).squeeze(-1) for log in (log_p, log_q)]
    filled = [out.new_zeros(shape).masked_scatter(valid, out) for out in outputs]
    divergences, entropies, other_entropies, *logprobs = filled
    return TokenDivergences(divergences, entropies, other_entropies, *(logprobs or (None, None)))


def divergence(log_p: Tensor, log_q: Tensor, kind: str, beta: float) -> Tensor:
    """Divergences `[n]` of log-probabilities `[n, V]`."""
    if kind == "tv":
        return (log_p.exp() - log_q.exp()).abs().sum(-1) / 2
    if kind == "kl" or (kind == "js" and beta == 1):
        return kl(log_p, log_q)
    if kind == "reverse_kl" or (kind == "js" and beta == 0):
        return kl(log_q, log_p)
    log_m = (beta * log_q.exp() + (1 - beta) * log_p.exp()).log()
    return beta * kl(log_q, log_m) + (1 - beta) * kl(log_p, log_m)


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    impossible = log_a == -torch.inf  # contributes 0, even where the other probability is 0
    return (log_a.exp() * (log_a - log_b).masked_fill(impossible, 0.0)).sum(-1)


def entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1)
