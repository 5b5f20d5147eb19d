"""The peers that need a GPU, beside those of benchmarks/peers.py: each a function, or None where it is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from benchmarks.peers import installed, trl_chunked


def logprobs_and_entropy() -> dict[str, Callable[..., Any] | None]:
    """`(logits [B, T, V], labels [B, T]) -> (log-probs, entropies)`"""
    return {"TRL (Triton)": installed("trl.kernels", "selective_log_softmax_and_entropy")}


def losses() -> dict[str, Callable[[Tensor, Tensor], Tensor] | None]:
    """`(logits [B, T, V], labels [B, T]) -> a tensor whose sum is differentiated`"""
    trl = installed("trl.kernels", "selective_log_softmax_and_entropy")
    liger = installed("liger_kernel.transformers.functional", "liger_cross_entropy")
    flash = installed("flash_attn.ops.triton.cross_entropy", "cross_entropy_loss")
    return {
        "TRL (Triton)": trl and (lambda logits, labels: trl(logits, labels)[0]),
        "Liger CE": liger and (lambda logits, labels: liger(logits.flatten(0, 1), labels.flatten(), reduction="sum")),
        "flash-attention CE": flash
        and (lambda logits, labels: flash(logits.flatten(0, 1), labels.flatten(), inplace_backward=True)[0]),
    }


def heads() -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor] | None]:
    """`(hidden [N, H], weight [V, H], labels [N]) -> a tensor whose sum is differentiated`"""
    liger = installed("liger_kernel.transformers.functional", "liger_fused_linear_cross_entropy")
    cce = installed("cut_cross_entropy", "linear_cross_entropy")
    return {
        "TRL chunked": trl_chunked(),
        "Liger FLCE": liger and (lambda hidden, weight, labels: liger(hidden, weight, labels, reduction="sum")),
        # Not "none": its kernel reads one gradient per token, and that of a sum is a single one, expanded.
        "CCE (drops small gradients)": cce
        and (lambda hidden, weight, labels: cce(hidden, weight, labels, reduction="sum")),
    }
