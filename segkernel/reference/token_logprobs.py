"""The label's log-probability and the entropy of `softmax(z)`, `z = cap(logit_scale * x) / temperature`."""

import torch
from torch import Tensor

from segkernel.reference.rows import compute_dtype


def token_logprobs(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    entropy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    valid = valid_labels(labels, mask, vocabulary=logits.shape[-1])
    # Masked rows are not read.
    outputs = label_logprobs(logits[valid], labels[valid], per_valid(temperature, valid), logit_scale, softcap)
    log_probs, entropies = (out.new_zeros(labels.shape).masked_scatter(valid, out) for out in outputs)
    return (log_probs, entropies) if entropy else log_probs


def label_logprobs(
    logits: Tensor, labels: Tensor, temperature: float | Tensor, logit_scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies `[n]` of valid rows of logits `[n, V]` with labels `[n]`.

    `temperature` is a scalar or `[n, 1]`.
    """
    z = logits.to(compute_dtype(logits)) * logit_scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    log_p = (z / temperature).log_softmax(-1)
    # Tokens of probability 0 contribute 0 to the entropy: 0 log 0 = 0.
    entropies = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1)
    return log_p.gather(-1, labels.long()[:, None]).squeeze(-1), entropies


def per_valid(temperature: float | Tensor, valid: Tensor) -> float | Tensor:
    """A temperature that broadcasts to `valid` `[...]`, as `[n, 1]` for the valid rows; a scalar stays as it is."""
    return temperature.expand(valid.shape)[valid][:, None] if isinstance(temperature, Tensor) else temperature


def valid_labels(labels: Tensor, mask: Tensor | None, vocabulary: int) -> Tensor:
    """Positions that are valid and have a label; `IndexError` for a label out of range at one of them."""
    valid = labels != -100
    if mask is not None:
        valid = valid & (mask != 0)
    out_of_range = valid & ((labels < 0) | (labels >= vocabulary))
    for position in out_of_range.nonzero().tolist():
        label = labels[tuple(position)]
        raise IndexError(f"labels: expected 0 <= label < {vocabulary}, got {label} at {position}")
    return valid
