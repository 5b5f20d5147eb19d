"""Replacements for TRL's fused LM head, `_ChunkedLogProbFunction`, in its four forms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segkernel.integrations.passing import check_positive, check_served, check_weight
from segkernel.integrations.targets import PassBack
from segkernel.ops.linear_token_logprobs import linear_token_logprobs

# Outputs next to the log-probs, and the names of segkernel's.
OUTPUTS = {
    "entropy": "entropy",
    "log_sum_sq_probs": "sum_squares",
    "mean_logits": "mean_logit",
    "is_top1": "is_argmax",
}

PerToken = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def fused_head(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
    chunk_size: int,
    final_logit_softcapping: float | None = None,
    logit_scale: float = 1.0,
    outputs: tuple[str, ...] = tuple(OUTPUTS),
) -> PerToken:
    """Log-probs, entropies, `log sum_v p_v^2`, mean logits and whether the target is the argmax, each `[N]` or None."""
    wanted = [name for name in outputs if name != "log_probs"]
    for name in wanted:
        if name not in OUTPUTS:
            raise PassBack(f"output {name}")
    check_weight(weight)
    check_served(hidden, weight)
    check_positive(temperature=temperature, logit_scale=logit_scale)
    found = linear_token_logprobs(
        hidden,
        weight,
        targets,
        bias=bias,
        temperature=temperature,
        logit_scale=logit_scale,
        softcap=final_logit_softcapping,
        outputs=[OUTPUTS[name] for name in wanted],
    )
    log_sum_squares = None if found.sum_squares is None else found.sum_squares.log()
    return found.logprobs, found.entropy, log_sum_squares, found.mean_logit, found.is_argmax


def head_with_entropy(
    last_hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
    chunk_size: int,
    final_logit_softcapping: float | None = None,
    logit_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies, `[N]` each."""
    options = (temperature, chunk_size, final_logit_softcapping, logit_scale)
    logprobs, entropy, *_ = fused_head(last_hidden, weight, bias, targets, *options, outputs=("entropy",))
    assert entropy is not None
    return logprobs, entropy


def head_without_bias(
    last_hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    temperature: float,
    chunk_size: int,
    final_logit_softcapping: float | None = None,
    logit_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies, `[N]` each, the entropies without gradient."""
    options = (temperature, chunk_size, final_logit_softcapping, logit_scale)
    logprobs, entropy = head_with_entropy(last_hidden, weight, None, targets, *options)
    return logprobs, entropy.detach()


def head_without_softcap(
    last_hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk_size: int, logit_scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies, `[N]` each, the entropies without gradient."""
    return head_without_bias(last_hidden, weight, targets, temperature, chunk_size, None, logit_scale)


def scores_valid_rows_only(device: torch.device) -> bool:
    """Whether the fused LM head leaves out prompts and padding: TRL does it on GPUs, and segkernel on the CPU as well.

    The name in TRL is `_use_triton`; the object that `trl.trainer.utils` holds decides nothing else.
    """
    if device.type != "cpu":
        raise PassBack(f"device {device.type}")
    return True


def example_with_bias() -> tuple[Any, ...]:
    """Arguments of `fused_head` and `head_with_entropy`."""
    hidden, weight, targets, *options = example_without_bias()
    bias = torch.randn(50, generator=torch.Generator().manual_seed(1)).requires_grad_()
    return hidden, weight, bias, targets, *options


def example_without_bias() -> tuple[Any, ...]:
    """Arguments of `head_without_bias`."""
    *arguments, temperature, chunk_size, logit_scale = example_without_softcap()
    return *arguments, temperature, chunk_size, 5.0, logit_scale


def example_without_softcap() -> tuple[Any, ...]:
    """Arguments of `head_without_softcap`."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, 8, generator=generator).requires_grad_() for rows in (5, 50))
    return hidden, weight, torch.tensor([3, 0, 49, 7, 7]), 0.7, 16, 0.5
