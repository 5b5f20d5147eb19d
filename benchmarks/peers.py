"""Peers: the implementations that segkernel is compared with, each as fast as we could write it in its style.

Functions of other libraries are `None` where the library is not installed; everything else needs only torch.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

Peers = dict[str, Callable[..., Any] | None]


def eager_logprobs_and_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log-softmax, gather and entropy in eager torch."""
    logprobs = torch.log_softmax(logits, dim=-1)
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return logprobs.gather(-1, labels[..., None])[..., 0], entropy


def eager_outputs(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """All outputs of `token_logprobs` in eager torch, which reads the logits several times."""
    logprobs = torch.log_softmax(logits, dim=-1)
    probabilities = logprobs.exp()
    return (
        logprobs.gather(-1, labels[..., None])[..., 0],
        -(probabilities * logprobs).sum(-1),
        probabilities.square().sum(-1),
        logits.mean(-1),
        logits.argmax(-1) == labels,
    )


def eager_logprobs(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-softmax and gather in eager torch."""
    return torch.log_softmax(logits, dim=-1).gather(-1, labels[..., None])[..., 0]


def eager_logprobs_of_several(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-softmax and gather of labels `[..., K]` in eager torch."""
    return torch.log_softmax(logits, dim=-1).gather(-1, labels)


def eager_kl(logits: Tensor, other_logits: Tensor) -> Tensor:
    """`KL(p || q)` per token from two log-softmaxes in eager torch."""
    log_p, log_q = (x.log_softmax(dim=-1, dtype=torch.float32) for x in (logits, other_logits))
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def eager_js(logits: Tensor, other_logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence per token, with beta = 1/2, from two log-softmaxes in eager torch."""
    log_p, log_q = (x.log_softmax(dim=-1, dtype=torch.float32) for x in (logits, other_logits))
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    return ((log_p.exp() * (log_p - log_m)) + (log_q.exp() * (log_q - log_m))).sum(-1) / 2


def eager_tv(logits: Tensor, other_logits: Tensor) -> Tensor:
    """Total variation per token from two softmaxes in eager torch."""
    p, q = (x.softmax(dim=-1, dtype=torch.float32) for x in (logits, other_logits))
    return (p - q).abs().sum(-1) / 2


EAGER_DIVERGENCES = {"kl": eager_kl, "js": eager_js, "tv": eager_tv}


def eager_topk_divergence(logits: Tensor, ids: Tensor, other_logprobs: Tensor) -> Tensor:
    """KL of the tokens `ids` and the rest to a teacher that gives its log-probabilities for `ids`, in eager torch."""
    log_p = logits.log_softmax(dim=-1, dtype=torch.float32).gather(-1, ids)
    p, q = log_p.exp(), other_logprobs.exp()
    rest_p, rest_q = 1 - p.sum(-1), 1 - q.sum(-1)
    return (p * (log_p - other_logprobs)).sum(-1) + rest_p * (rest_p / rest_q).log()


def eager_capped(logits: Tensor, labels: Tensor, softcap: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropy of logits under a softcap in eager torch."""
    return eager_logprobs_and_entropy(softcap * torch.tanh(logits / softcap), labels)


def divergences(device: str, kind: str) -> Peers:
    """`(logits [B, T, V], other logits) -> divergences [B, T]`."""
    if kind == "tv":
        of_probabilities = installed("liger_kernel.transformers.functional", "liger_tvd") if device != "cpu" else None
        tvd = of_probabilities and (
            lambda logits, other_logits: of_probabilities(
                *(x.softmax(dim=-1).flatten(0, -2) for x in (logits, other_logits)), reduction="sum"
            )
        )
        return {} if device == "cpu" else {"Liger, of softmaxes": tvd}
    beta = {"kl": 1.0, "js": 0.5}[kind]
    trainer = installed("trl.experimental.gkd.gkd_trainer", "GKDTrainer")
    trl = trainer and (
        lambda logits, other_logits: trainer.generalized_jsd_loss(
            logits, other_logits, beta=beta, reduction="none"
        ).sum(-1)
    )
    if device == "cpu":
        return {"TRL (GKD)": trl}
    liger = installed("liger_kernel.transformers.functional", f"liger_{'kl_div' if kind == 'kl' else 'jsd'}")

    def with_liger(logits: Tensor, other_logits: Tensor) -> Tensor:
        log_p, log_q = (x.log_softmax(dim=-1).flatten(0, -2) for x in (logits, other_logits))
        if kind == "kl":  # whose first argument is the distribution in the logarithm only
            return liger(log_q, log_p, reduction="sum", log_target=True)
        return liger(log_p, log_q, jsd_beta=beta)

    return {"TRL (GKD)": trl, "Liger, of log-softmaxes": liger and with_liger}


def trl_chunked_divergence() -> Callable[..., Tensor] | None:
    """TRL's `KL(p || q)` per token from both models' hidden states and heads."""
    chunked = installed("trl.kernels.chunked_divergence", "ChunkedDivergenceFunction")
    return chunked and (
        lambda hidden, weight, other_hidden, other_weight: chunked.apply(
            hidden, weight, None, other_hidden, other_weight, None, 1.0
        )[0]
    )


@cache
def installed(module: str, name: str) -> Any:
    """`module.name`, or `None` where the import fails for any reason or the name is missing."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except Exception:
        return None


def materialized_logprobs(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """LM head under plain autograd, with all logits in memory."""
    return -functional.cross_entropy(functional.linear(hidden, weight).float(), labels, reduction="none")


def torch_chunked() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """torch's chunked head, from torch 2.13 on; its gradients are computed in the forward pass."""
    options = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    head: Any = getattr(functional, "linear_cross_entropy", None)
    if options is None or head is None:
        return None
    return lambda hidden, weight, labels: head(hidden, weight, labels, reduction="sum", options=options())


def trl_chunked() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """TRL's LM head, with the chunk size that its trainers use."""
    chunked = installed("trl.kernels.chunked_logprob", "ChunkedLogProbFunction")
    return chunked and (
        lambda hidden, weight, labels: chunked.apply(hidden, weight, None, labels, 1.0, 32768, None, 1.0, ())[0]
    )


def liger_scaled() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """Liger's head with a loss per token: a kernel for GPUs of compute capability 9.0, elsewhere torch in chunks."""
    name = "LigerFusedLinearScaledCrossEntropyFunction"
    scaled = installed("liger_kernel.ops.fused_linear_scaled_cross_entropy", name)
    return scaled and (lambda hidden, weight, labels: -scaled.apply(hidden, weight, labels))


def logprobs_and_entropy(device: str) -> Peers:
    """`(logits [B, T, V], labels [B, T]) -> (log-probs, entropies)`."""
    if device == "cpu":
        return {"TRL": installed("trl.trainer.utils", "selective_log_softmax_and_entropy")}
    quack = installed("quack.cross_entropy", "cross_entropy_fwd")
    return {
        "TRL (Triton)": installed("trl.kernels", "selective_log_softmax_and_entropy"),
        "quack CE, no entropy": quack and (lambda logits, labels: quack(logits.flatten(0, 1), labels.flatten())),
    }


def logprob_losses(device: str) -> Peers:
    """`(logits [B, T, V], labels [B, T]) -> a tensor whose sum is differentiated`."""
    if device == "cpu":
        return {"TRL": installed("trl.trainer.utils", "selective_log_softmax")}
    trl = installed("trl.kernels", "selective_log_softmax_and_entropy")
    liger = installed("liger_kernel.transformers.functional", "liger_cross_entropy")
    flash = installed("flash_attn.ops.triton.cross_entropy", "cross_entropy_loss")
    quack = installed("quack.cross_entropy", "cross_entropy")
    return {
        "quack CE": quack
        and (
            lambda logits, labels: quack(
                logits.flatten(0, 1), labels.flatten(), reduction="none", inplace_backward=True
            )
        ),
        "TRL (Triton)": trl and (lambda logits, labels: trl(logits, labels)[0]),
        "Liger CE": liger and (lambda logits, labels: liger(logits.flatten(0, 1), labels.flatten(), reduction="sum")),
        "flash-attention CE": flash
        and (lambda logits, labels: flash(logits.flatten(0, 1), labels.flatten(), inplace_backward=True)[0]),
    }


def heads(device: str) -> Peers:
    """`(hidden [N, H], weight [V, H], labels [N]) -> a tensor whose sum is differentiated`."""
    if device == "cpu":
        return {"TRL chunked": trl_chunked(), "torch chunked": torch_chunked(), "Liger scaled CE": liger_scaled()}
    liger = installed("liger_kernel.transformers.functional", "liger_fused_linear_cross_entropy")
    cce = installed("cut_cross_entropy", "linear_cross_entropy")
    return {
        "TRL chunked": trl_chunked(),
        "torch chunked": torch_chunked(),
        "Liger scaled CE": liger_scaled(),
        "Liger FLCE": liger and (lambda hidden, weight, labels: liger(hidden, weight, labels, reduction="sum")),
        # reduction="none" would fail: the kernel expects a contiguous gradient, and that of a sum is expanded.
        "CCE (drops small gradients)": cce
        and (lambda hidden, weight, labels: cce(hidden, weight, labels, reduction="sum")),
    }


def vectorized_segment(rewards: Tensor, threshold: float, low: float, high: float, sign: int) -> tuple[Tensor, ...]:
    """Pivots, trigger, ids, rewards, signs and mask with whole-tensor torch operations."""
    rows, length = rewards.shape
    starts = torch.empty_like(rewards, dtype=torch.bool)
    starts[:, 0] = True
    torch.gt((rewards[:, 1:] - rewards[:, :-1]).abs(), threshold, out=starts[:, 1:])
    events = (rewards > high).to(torch.int32) - (rewards < low).to(torch.int32)
    device = rewards.device
    positions = torch.arange(length, dtype=torch.int32, device=device)
    last_event = torch.where(events != 0, positions, -1).cummax(1).values
    states = torch.where(last_event >= 0, events.gather(1, last_event.clamp(min=0).long()), 0)
    starts[:, 1:] |= states[:, 1:] != states[:, :-1]
    ids = starts.cumsum(1) - 1
    counts = ids[:, -1] + 1
    ones = torch.ones(1, 1, dtype=torch.int32, device=device).expand(rows, length)
    lengths = torch.zeros(rows, length, dtype=torch.int32, device=device).scatter_add_(1, ids, ones)
    sums = torch.zeros_like(rewards).scatter_add_(1, ids, rewards)
    signs = torch.zeros(rows, length, dtype=torch.int8, device=device).scatter_(1, ids, states.to(torch.int8))
    return ids.int(), counts.int(), lengths, sums / lengths.clamp(min=1), signs, states == sign


def looped_segment(rewards: Tensor, threshold: float, low: float, high: float, sign: int) -> tuple[Tensor, ...]:
    """The same with one `.item()` per token, as the papers' trainers do it."""
    rows, length = rewards.shape
    ids = torch.zeros(rows, length, dtype=torch.int32)
    counts = torch.zeros(rows, dtype=torch.int32)
    lengths = torch.zeros(rows, length, dtype=torch.int32)
    segment_rewards = torch.zeros(rows, length)
    signs = torch.zeros(rows, length, dtype=torch.int8)
    mask = torch.zeros(rows, length, dtype=torch.bool)
    for row in range(rows):
        segment, state, previous, total, count = -1, 0, 0.0, 0.0, 0
        for t in range(length):
            reward = rewards[row, t].item()
            state_before = state
            state = 1 if reward > high else -1 if reward < low else state
            if segment < 0 or abs(reward - previous) > threshold or state != state_before:
                segment, total, count = segment + 1, 0.0, 0
            total, count, previous = total + reward, count + 1, reward
            ids[row, t] = segment
            lengths[row, segment] = count
            segment_rewards[row, segment] = total / count
            signs[row, segment] = state
            mask[row, t] = state == sign
        counts[row] = segment + 1
    return ids, counts, lengths, segment_rewards, signs, mask


def topk_selection(values: Tensor, mask: Tensor, k: int) -> Tensor:
    """The `k` largest valid values of each row by `torch.topk`, with `k` known on the host."""
    indices = values.masked_fill(~mask, -torch.inf).topk(k, dim=1).indices
    return torch.zeros_like(mask).scatter_(1, indices, True)


def quantile_selection(values: Tensor, mask: Tensor, fraction: float) -> Tensor:
    """The valid values above a quantile of their row."""
    threshold = values.masked_fill(~mask, torch.nan).nanquantile(1 - fraction, dim=1, keepdim=True)
    return mask & (values >= threshold)


def looped_discounted_sum(values: Tensor, discount: float) -> Tensor:
    """Discounted sums as a loop over steps, vectorized over rows."""
    following = values.new_zeros(values.shape[0])
    reversed_sums = []
    for t in reversed(range(values.shape[1])):
        following = values[:, t] + discount * following
        reversed_sums.append(following)
    return torch.stack(reversed_sums[::-1], dim=1)


def vectorized_runs(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Runs of a mask, with their number per row."""
    starts = mask.int().diff(dim=1, prepend=mask.new_zeros(mask.shape[0], 1).int()) == 1
    runs = starts.cumsum(1, dtype=torch.int32)
    return torch.where(mask, runs - 1, -1), runs[:, -1].contiguous()


def scattered_group_normalize(values: Tensor, counts: Tensor, group: Tensor) -> Tensor:
    """Group moments by `scatter_add_`, with groups numbered from 0 to B - 1. Not deterministic on a GPU."""
    valid = torch.arange(values.shape[1], device=values.device) < counts[:, None]
    values = torch.where(valid, values, 0.0)

    def of_group(row_sums: Tensor) -> Tensor:
        return torch.zeros_like(row_sums).scatter_add_(0, group, row_sums)[group][:, None]

    total = of_group(counts.to(values.dtype))
    deviations = torch.where(valid, values - of_group(values.sum(1)) / total, 0.0)
    squares = of_group(deviations.square().sum(1))
    return deviations / ((squares / (total - 1)).sqrt() + 1e-6)


def advantages(device: str, like: Tensor) -> Peers:
    """`(rewards [B, T], values [B, T]) -> advantages [B, T]`, for inputs like `like`."""
    if device == "cpu":
        return {}
    triton = installed("rl_triton.ops.gae", "compute_gae") or installed("rl_triton.ops.gae", "compute_gae_triton")
    terminated = torch.zeros_like(like)
    return {"rl-triton": triton and (lambda rewards, values: triton(rewards, values, terminated))}


def looped_gae(rewards: Tensor, values: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """GAE as a loop over steps, vectorized over rows, as PPO trainers have it."""
    length = rewards.shape[1]
    last = rewards.new_zeros(rewards.shape[0])
    reversed_advantages = []
    for t in reversed(range(length)):
        next_values = values[:, t + 1] if t < length - 1 else 0.0
        delta = rewards[:, t] + gamma * next_values - values[:, t]
        last = delta + gamma * lam * last
        reversed_advantages.append(last)
    advantages = torch.stack(reversed_advantages[::-1], dim=1)
    return advantages, advantages + values
