"""The label's log-probability and statistics of `softmax(z)`, `z = cap(logit_scale * x) / temperature`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from segkernel.reference.rows import compute_dtype
from segkernel.types import TokenLogprobs


def token_logprobs(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    entropy: bool = False,
    outputs: Sequence[str] | None = None,
) -> Tensor | tuple[Tensor, Tensor] | TokenLogprobs:
    valid = valid_rows(labels, mask, logits)
    # Masked rows are not read.
    found = label_logprobs(logits[valid], labels[valid], per_valid(temperature, valid), logit_scale, softcap)
    return spread(found, valid, entropy, outputs)


def label_logprobs(
    logits: Tensor, labels: Tensor, temperature: float | Tensor, logit_scale: float, softcap: float | None
) -> dict[str, Tensor]:
    """All outputs `[n]` for valid rows of logits `[n, V]` with labels `[n]` or `[n, K]`; a label of -100 gives 0.

    `temperature` is a scalar or `[n, 1]`.
    """
    z = logits.to(compute_dtype(logits)) * logit_scale
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    z = z / temperature
    log_p = z.log_softmax(-1)
    # Tokens of probability 0 contribute 0 to the entropy: 0 log 0 = 0.
    entropies = -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1)
    is_distribution = log_p.exp().sum(-1) > 0
    several = labels.long() if labels.dim() == 2 else labels.long()[:, None]  # [n, K]
    return {
        "logprobs": log_p.gather(-1, several.clamp(min=0)).where(several != -100, 0.0).view(labels.shape),
        "entropy": entropies,
        "sum_squares": log_p.detach().exp().square().sum(-1),
        "mean_logit": z.detach().mean(-1).where(is_distribution, torch.nan),
        # argmax is the first of equal maxima
        "is_argmax": ((z.argmax(-1)[:, None] == several) & is_distribution[:, None]).view(labels.shape),
    }


def spread(
    found: dict[str, Tensor], valid: Tensor, entropy: bool, outputs: Sequence[str] | None
) -> Tensor | tuple[Tensor, Tensor] | TokenLogprobs:
    """The requested outputs, in the shape of `valid`, with 0 at masked positions."""
    every = {}
    for name, values in found.items():
        of_labels = valid if values.dim() == 1 else valid[..., None].expand(*valid.shape, values.shape[-1])
        every[name] = values.new_zeros(of_labels.shape).masked_scatter(of_labels, values)
    if outputs is not None:
        return TokenLogprobs(every["logprobs"], **{name: every[name] for name in outputs})
    return (every["logprobs"], every["entropy"]) if entropy else every["logprobs"]


def per_valid(temperature: float | Tensor, valid: Tensor) -> float | Tensor:
    """A temperature that broadcasts to `valid` `[...]`, as `[n, 1]` for the valid rows; a scalar stays as it is."""
    return temperature.expand(valid.shape)[valid][:, None] if isinstance(temperature, Tensor) else temperature


def valid_rows(labels: Tensor, mask: Tensor | None, rows: Tensor) -> Tensor:
    """Rows `[..., V]` that are valid and have a label; `labels` may be `[..., K]`."""
    if labels.dim() < rows.dim():
        return valid_labels(labels, mask, vocabulary=rows.shape[-1])
    of_labels = None if mask is None else mask[..., None].expand(labels.shape)
    return valid_labels(labels, of_labels, vocabulary=rows.shape[-1]).any(-1)


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
