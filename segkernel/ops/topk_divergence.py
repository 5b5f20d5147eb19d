"""Divergence from a teacher that returns only its most likely tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel._debug import checks_values
from segkernel.ops.token_logprobs import MOST_LABELS, check_logits, token_logprobs

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
    """KL divergence between a model and another one, given the other one's log-probabilities of `K` tokens.

    For on-policy distillation from a server that returns its top `K` tokens. With `p = softmax(z)` as in
    `token_logprobs` and `q` the other model's probabilities, the sum over the `K` tokens is
    `sum_k p_k log(p_k / q_k)` for `"kl"` and `sum_k q_k log(q_k / p_k)` for `"reverse_kl"`. `tail` adds the term of all
    other tokens as one outcome, with the remaining masses `1 - sum_k p_k` and `1 - sum_k q_k`: then the result is a
    divergence, at least 0 and at most the one over the vocabulary. Remaining masses count as at least 2^-23 (2^-52 in
    float64), since rounded log-probabilities may sum to 1.

    Args:
        logits: `[..., V]`, float64, float32, bfloat16 or float16. Only the last dimension must be contiguous.
        ids: `[..., K]`, `K` up to 256, integer, distinct, in `[0, V)` at valid positions; -100 where the server
            returned fewer.
        other_logprobs: `[..., K]`, floating-point, the log-probabilities of `ids`, without gradient; at the same
            temperature as `z`. Values at -100 are not used.
        mask: `[...]`, bool or numeric, nonzero is valid; None means all valid. Masked rows are not read.
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
    mask = _tensors.token_mask(mask, "logits[..., 0]", logits, logits.shape[:-1])
    known = ids != -100
    if mask is not None:
        known = known & mask[..., None]
    check_ids(ids, known, logits.shape[-1])
    logprobs = token_logprobs(
        logits,
        ids,
        mask,
        temperature=temperature,
        logit_scale=logit_scale,
        softcap=softcap,
        inplace_backward=inplace_backward,
    )
    log_p = logprobs.double().where(known, -torch.inf)
    log_q = other_logprobs.double().where(known, -torch.inf)
    if tail:
        smallest = torch.finfo(_tensors.compute_dtype(logits)).eps
        log_p, log_q = (torch.cat([log, log_rest(log, smallest)], -1) for log in (log_p, log_q))
    first, second = (log_p, log_q) if kind == "kl" else (log_q, log_p)
    impossible = first == -torch.inf  # contributes 0, even where the other probability is 0
    divergence = (first.exp() * (first - second).masked_fill(impossible, 0.0)).sum(-1)
    return divergence.where(known.any(-1), 0.0).to(_tensors.compute_dtype(logits))


def log_rest(logs: Tensor, smallest: float) -> Tensor:
    """`log(1 - sum exp(logs))`, `[..., 1]`: the logarithm of the mass of all other tokens, at least `smallest`."""
    return (1 - logs.exp().sum(-1, keepdim=True)).clamp(min=smallest).log()


def check_top(logits: Tensor, ids: Tensor, other_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Ids as int64, and the other model's log-probabilities of them."""
    _tensors.tensor("ids", ids, _tensors.INTEGERS, "integer")
    leading = list(logits.shape[:-1])
    if ids.dim() != logits.dim() or ids.shape[:-1] != logits.shape[:-1] or not 1 <= ids.shape[-1] <= MOST_LABELS:
        raise ValueError(
            f"ids: expected {[*leading, 'K']} like logits with K from 1 to {MOST_LABELS}, got {_validate.describe(ids)}"
        )
    _tensors.same_device("ids", ids, "logits", logits)
    _tensors.tensor("other_logprobs", other_logprobs)
    if other_logprobs.shape != ids.shape:
        raise ValueError(
            f"other_logprobs: expected {list(ids.shape)} like ids, got {_validate.describe(other_logprobs)}"
        )
    _tensors.same_device("other_logprobs", other_logprobs, "logits", logits)
    _tensors.constant("other_logprobs", other_logprobs)
    return ids.to(torch.int64), other_logprobs


def check_ids(ids: Tensor, known: Tensor, vocabulary: int) -> None:
    """Validates ids on the CPU, and elsewhere under `debug()`."""
    if torch.compiler.is_compiling() or not (ids.device.type == "cpu" or checks_values()):
        return
    for position in (known & ((ids < 0) | (ids >= vocabulary))).nonzero().tolist():
        raise IndexError(
            f"ids: expected 0 <= id < {vocabulary}, or -100 where there is none, got {ids[tuple(position)].item()} at "
            f"{position}"
        )
