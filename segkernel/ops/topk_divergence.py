"""Divergence from a teacher that returns its most likely tokens only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segkernel import _tensors, _validate
from segkernel._enums import LOGPROB_OUTPUTS
from segkernel._library import ops
from segkernel.ops.token_logprobs import check_logits, check_writable, logit_options, per_token

KINDS = ("kl", "reverse_kl")


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
    inplace_backward: bool = False,
) -> Tensor:
    """KL divergence of a model and another one of which only the log-probabilities of `K` tokens are known.

    For on-policy distillation from a server that returns its top `K` tokens. With `p = softmax(z)` as in
    `token_logprobs` and `q` the other model's probabilities, the sum over the `K` tokens is
    `sum_k p_k log(p_k / q_k)` for `"kl"` and `sum_k q_k log(q_k / p_k)` for `"reverse_kl"`. `tail` adds the term of all
    other tokens as one outcome, with the remaining masses `1 - sum_k p_k` and `1 - sum_k q_k`: then the result is a
    divergence, at least 0 and at most the one over the vocabulary. Remaining masses count as at least 2^-23 (2^-52 in
    float64), since rounded log-probabilities may sum to 1.

    Args:
        logits: `[..., V]`, float64, float32, bfloat16 or float16. Only the last dimension must be contiguous.
        ids: `[..., K]`, integer, distinct, in `[0, V)` at valid positions; -100 where the server returned fewer.
        other_logprobs: `[..., K]`, floating-point, the log-probabilities of `ids`, without gradient; at the same
            temperature as `z`. Values at -100 are not used.
        mask: `[...]`, bool or numeric, nonzero is valid; None means all valid. Values of masked positions are not used.
        kind: "kl" or "reverse_kl".
        tail: add the term of all other tokens.
        temperature, logit_scale, softcap, inplace_backward: as in `token_logprobs`.

    Returns:
        `[...]`, in nats; float32, or float64 for float64 logits. 0 at masked positions and where all ids are -100. Can
        be negative without `tail`.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, parameters out of range, an unknown `kind`, `other_logprobs`
            that require a gradient.
        IndexError: an id out of range at a valid position, naming it. On CUDA only under `segkernel.debug()`:
            otherwise the output and gradient are NaN there.

    The gradient to `logits` is exact; second derivatives raise RuntimeError.

    Example:
        >>> import torch, segkernel
        >>> logits = torch.zeros(1, 4)
        >>> ids, other = torch.tensor([[2]]), torch.tensor([[0.5]]).log()
        >>> segkernel.topk_divergence(logits, ids, other)  # 1/4 log(1/2) + 3/4 log(3/2)
        tensor([0.1308])
        >>> segkernel.topk_divergence(logits, ids, other, tail=False)
        tensor([-0.1733])
    """
    check_logits(logits)
    ids, other_logprobs = check_top(logits, ids, other_logprobs)
    _validate.one_of("kind", kind, KINDS)
    _validate.boolean("tail", tail)
    _validate.boolean("inplace_backward", inplace_backward)
    mask = _tensors.token_mask(mask, "logits[..., 0]", logits, logits.shape[:-1])
    scalar, token_temperature = per_token("temperature", temperature, ids[..., 0], mask)
    known = ids != -100
    if mask is not None:
        known = known & mask[..., None]
    if logits.device.type == "cpu" and not torch.compiler.is_compiling():
        check_ids(ids, known, logits.shape[-1])
    else:
        _tensors.labels_in_range(ids, known, logits.shape[-1])

    scale, temperature, cap = logit_options(scalar, logit_scale, softcap)
    # A compiled graph must not write to tensors that it saved for its backward pass.
    writes = inplace_backward and logits.requires_grad and torch.is_grad_enabled()
    inplace = writes and not torch.compiler.is_compiling()
    if inplace:
        check_writable(logits)
    log_p: Tensor = _LogProbabilities.apply(  # type: ignore[no-untyped-call]
        logits, ids, known, token_temperature, scale, temperature, cap, inplace
    )
    log_q = other_logprobs.double().where(known, -torch.inf)
    if tail:
        smallest = torch.finfo(_tensors.compute_dtype(logits)).eps
        log_p, log_q = (torch.cat([log, log_rest(log, smallest)], -1) for log in (log_p, log_q))
    first, second = (log_p, log_q) if kind == "kl" else (log_q, log_p)
    impossible = first == -torch.inf  # contributes 0, also where the other probability is 0, too
    divergence = (first.exp() * (first - second).masked_fill(impossible, 0.0)).sum(-1)
    return divergence.where(known.any(-1), 0.0).to(_tensors.compute_dtype(logits))


class _LogProbabilities(torch.autograd.Function):
    """Log-probabilities `[..., K]` of `ids`, float64; -inf where they are not `known`, NaN where out of range.

    The row is read by `token_logprobs` with one of the ids as its label. Its gradient is that of the sum of all
    log-probabilities off the ids; at the ids it is replaced.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        ids: Tensor,
        known: Tensor,
        token_temperature: Tensor | None,
        logit_scale: float,
        temperature: float,
        softcap: float | None,
        inplace: bool,
    ) -> Tensor:
        mask = known.any(-1)
        inside = known & (ids >= 0) & (ids < logits.shape[-1])
        # Unknown ids repeat one that is known.
        label = ids.gather(-1, known.to(torch.uint8).argmax(-1, keepdim=True))
        index = ids.where(inside, label).clamp(0, logits.shape[-1] - 1)
        options = (logit_scale, temperature, softcap)
        _, entropy, lse, *_ = ops.token_logprobs.default(
            logits, label[..., 0], mask, token_temperature, *options, LOGPROB_OUTPUTS["logprobs"], inplace
        )
        y = logits.detach().gather(-1, index).double() * logit_scale
        slope = torch.full_like(y, logit_scale)
        if softcap is not None:
            capped = torch.tanh(y / softcap)
            y, slope = softcap * capped, slope * (1 - capped.square())
        divisor: Any = temperature if token_temperature is None else token_temperature[..., None]
        log_p: Tensor = y / divisor - lse[..., None]
        ctx.options, ctx.inplace = options, inplace
        ctx.save_for_backward(
            logits, label[..., 0], mask, token_temperature, entropy, lse, index, known, log_p, slope / divisor
        )
        return log_p.where(inside, torch.nan).where(known, -torch.inf)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_log_p: Tensor) -> tuple[Tensor | None, ...]:
        logits, label, mask, token_temperature, entropy, lse, index, known, log_p, slope = ctx.saved_tensors
        grad_log_p = grad_log_p.where(known, 0.0)
        total = grad_log_p.sum(-1, keepdim=True)
        arguments = (label, mask, token_temperature, entropy, lse, *ctx.options)
        upstream = total[..., 0].to(_tensors.compute_dtype(logits)).contiguous()
        if ctx.inplace:
            grad = logits.detach()
            ops.token_logprobs_backward_.default(upstream, None, grad, *arguments)
        else:
            grad = ops.token_logprobs_backward.default(upstream, None, logits, *arguments)
        at_ids = slope * (grad_log_p - total * log_p.exp())
        first_known = known.to(torch.uint8).argmax(-1, keepdim=True)
        at_ids = at_ids.where(known, at_ids.gather(-1, first_known))
        at_ids = at_ids.where(mask[..., None], 0.0)
        grad.scatter_(-1, index, at_ids.to(grad.dtype))
        if ctx.inplace:
            # Autograd then raises if another operation saved these logits for its backward pass.
            torch.autograd.graph.increment_version(grad)
        return grad, *(None,) * 7


def log_rest(logs: Tensor, smallest: float) -> Tensor:
    """Logarithm of the mass that probabilities with these logarithms leave, `[..., 1]`, at least that of `smallest`."""
    return (1 - logs.exp().sum(-1, keepdim=True)).clamp(min=smallest).log()


def check_top(logits: Tensor, ids: Tensor, other_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Ids as int64, and the other model's log-probabilities of them."""
    _tensors.tensor("ids", ids, _tensors.INTEGERS, "integer")
    leading = list(logits.shape[:-1])
    if ids.dim() != logits.dim() or ids.shape[:-1] != logits.shape[:-1] or ids.shape[-1] == 0:
        raise ValueError(f"ids: expected {[*leading, 'K']} with K >= 1 like logits, got {_validate.describe(ids)}")
    _tensors.same_device("ids", ids, "logits", logits)
    _tensors.tensor("other_logprobs", other_logprobs)
    if other_logprobs.shape != ids.shape:
        raise ValueError(
            f"other_logprobs: expected {list(ids.shape)} like ids, got {_validate.describe(other_logprobs)}"
        )
    _tensors.same_device("other_logprobs", other_logprobs, "logits", logits)
    if other_logprobs.requires_grad and torch.is_grad_enabled():
        raise ValueError("other_logprobs: expected a constant, got a tensor that requires grad; call .detach() on it")
    return ids.to(torch.int64), other_logprobs


def check_ids(ids: Tensor, known: Tensor, vocabulary: int) -> None:
    wrong = known & ((ids < 0) | (ids >= vocabulary))
    if wrong.any():
        position = wrong.nonzero()[0].tolist()
        raise IndexError(
            f"ids: expected 0 <= id < {vocabulary}, or -100 where there is none, got {ids[tuple(position)].item()} at "
            f"{position}"
        )
