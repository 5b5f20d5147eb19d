"""Replacements for TRL's functions of logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segkernel.integrations.passing import check_positive, check_served
from segkernel.integrations.targets import PassBack
from segkernel.ops.token_logprobs import MOST_LABELS, token_logprobs


def selective_log_softmax(
    logits: Tensor, index: Tensor, temperature: float = 1.0, row_mask: Tensor | None = None
) -> Tensor:
    """Log-probs of `index`, `[...]` or `[..., K]`, in the dtype of the logits."""
    logits = _logits(logits, temperature)
    if index.dim() == logits.dim() and not 1 <= index.shape[-1] <= MOST_LABELS:
        raise PassBack(f"{index.shape[-1]} labels per position")
    if row_mask is not None and row_mask.shape != logits.shape[:-1]:
        raise PassBack("row_mask of another shape")
    return token_logprobs(logits, index, row_mask, temperature=temperature).to(logits.dtype)


def entropy_from_logits(logits: Tensor, chunk_size: int = 128) -> Tensor:
    """Entropies `[...]`, in the dtype of the logits."""
    return _with_entropy(_logits(logits))[1].to(logits.dtype)


def selective_log_softmax_and_entropy(
    logits: Tensor,
    index: Tensor,
    entropy_requires_grad: bool = True,
    temperature: float = 1.0,
    row_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies `[...]` from one read of the logits."""
    logits = _logits(logits, temperature)
    logprobs, entropy = token_logprobs(logits, index, row_mask, temperature=temperature, entropy=True)
    entropy = entropy.to(logits.dtype)
    return logprobs.to(logits.dtype), entropy if entropy_requires_grad else entropy.detach()


def _logits(logits: Tensor, temperature: float = 1.0) -> Tensor:
    check_served(logits)
    check_positive(temperature=temperature)
    return logits if logits.stride(-1) == 1 else logits.contiguous()


def _with_entropy(logits: Tensor) -> tuple[Tensor, Tensor]:
    labels = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    return token_logprobs(logits, labels, entropy=True)


def example() -> tuple[Any, ...]:
    """Arguments of `selective_log_softmax`."""
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return logits, torch.tensor([[3, 0, 49], [7, 7, 1]])
