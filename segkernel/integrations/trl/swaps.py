"""TRL: the log-probs of its trainers.

TRL 1.13 and later compute log-probs from hidden states (`_ChunkedLogProbFunction`), older versions from logits
(`selective_log_softmax`, `entropy_from_logits`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segkernel.integrations.passing import check_positive, check_served, check_weight
from segkernel.integrations.targets import Framework, PassBack, Target
from segkernel.ops.linear_token_logprobs import linear_token_logprobs
from segkernel.ops.token_logprobs import token_logprobs

UTILS = "trl.trainer.utils"

# Outputs of TRL's fused LM head next to the log-probs, and the names of segkernel's.
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


def fused_head_with_entropy(
    last_hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
    chunk_size: int,
    final_logit_softcapping: float | None = None,
    logit_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies, `[N]` each: the form of TRL 1.13 and 1.14."""
    logprobs, entropy, *_ = fused_head(
        last_hidden,
        weight,
        bias,
        targets,
        temperature,
        chunk_size,
        final_logit_softcapping,
        logit_scale,
        outputs=("entropy",),
    )
    assert entropy is not None
    return logprobs, entropy


def scores_valid_rows_only(device: torch.device) -> bool:
    """Whether the fused LM head leaves out prompts and padding: TRL does it on GPUs, and segkernel on the CPU as well.

    The name in TRL is `_use_triton`; the object that `trl.trainer.utils` holds decides nothing else.
    """
    if device.type != "cpu":
        raise PassBack(f"device {device.type}")
    return True


def selective_log_softmax(
    logits: Tensor, index: Tensor, temperature: float = 1.0, row_mask: Tensor | None = None
) -> Tensor:
    """Log-probs of `index`, `[...]` or `[..., K]`, in the dtype of the logits."""
    logits = _logits(logits, temperature)
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


def _head_example() -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 8, generator=generator).requires_grad_()
    weight, bias = (torch.randn(*shape, generator=generator).requires_grad_() for shape in ((50, 8), (50,)))
    return hidden, weight, bias, torch.tensor([3, 0, 49, 7, 7]), 0.7, 16, 5.0, 0.5


def _logits_example() -> tuple[Any, ...]:
    logits = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return logits, torch.tensor([[3, 0, 49], [7, 7, 1]])


FRAMEWORK = Framework(
    "trl",
    "trl",
    (
        Target(
            UTILS,
            "_ChunkedLogProbFunction",
            fused_head,
            versions=((1, 15), (1, 16)),
            known=frozenset({"6151eb3d3314bd5b", "afd40d2053fb5a85"}),
            sources=(f"{UTILS}.add_fused_lm_head",),
            example=_head_example,
        ),
        Target(
            UTILS,
            "_ChunkedLogProbFunction",
            fused_head_with_entropy,
            versions=((1, 13), (1, 14)),
            known=frozenset({"372c7102c13f5d01", "4754459363a8f919"}),
            example=_head_example,
        ),
        Target(
            UTILS,
            "_use_triton",
            scores_valid_rows_only,
            versions=((1, 16), (1, 16)),
            known=frozenset({"dfb9135052afd5de"}),
            sources=(f"{UTILS}.add_fused_lm_head",),
            everywhere=False,
        ),
        Target(
            UTILS,
            "selective_log_softmax",
            selective_log_softmax,
            versions=((0, 18), (1, 16)),
            known=frozenset(
                {
                    "9955dc27978c2152",  # 0.18
                    "e6f4ce6b28335f95",  # 0.19 to 0.24
                    "00a9962cff996b47",  # 0.25 to 0.28
                    "298eeb5c96ac0be2",  # 0.29 to 1.13
                    "6b4366128fbb2171",  # 1.14, 1.15
                    "325c92be4e2fbe83",  # 1.16
                }
            ),
            example=_logits_example,
        ),
        Target(
            UTILS,
            "entropy_from_logits",
            entropy_from_logits,
            versions=((0, 20), (1, 16)),
            known=frozenset(
                {
                    "54a166b8c352349f",  # 0.20 to 0.22
                    "c3ff194939983be7",  # 0.23 to 1.13
                    "e814d4143dc0df4a",  # 1.14, 1.15
                    "e1d44af750d9a181",  # 1.16
                }
            ),
            example=lambda: _logits_example()[:1],
        ),
        Target(
            UTILS,
            "selective_log_softmax_and_entropy",
            selective_log_softmax_and_entropy,
            versions=((1, 14), (1, 16)),
            known=frozenset({"c73b2f5aed63b4fb", "6aa8163385a217ec"}),
            example=_logits_example,
        ),
    ),
)
