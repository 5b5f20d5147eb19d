"""Divergence of the distributions of two models, read from both rows of logits side by side."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel._enums import DIVERGENCE
from segkernel._inplace_backward import overwrites, overwritten
from segkernel._library import no_second_derivative, ops, register_fake
from segkernel.ops.token_logprobs import check_labels, check_logits, logit_options, per_token
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
    inplace_backward: bool = False,
) -> TokenDivergences:
    """Divergence of two models' distributions per token, with their entropies, read from both rows of logits.

    `p = softmax(z)` for `logits` and `q = softmax(z)` for `other_logits`, with `z = cap(logit_scale * x) / temperature`
    and `cap(y) = softcap * tanh(y / softcap)`. The gradient goes to `logits` only. Both rows are read once for `"kl"`
    and `"reverse_kl"` (a second time on CUDA where they hold -inf), and twice for `"js"` and `"tv"`, whose terms need
    normalized probabilities. Masked rows are not read.

    With the mixture `m = beta q + (1 - beta) p`, `kind` is

    - `"kl"`: `KL(p || q)`, the reverse KL of distillation if `p` is the student;
    - `"reverse_kl"`: `KL(q || p)`, the forward KL of distillation;
    - `"js"`: `beta KL(q || m) + (1 - beta) KL(p || m)`, the generalized Jensen-Shannon divergence of GKD
      (arXiv 2306.13649);
    - `"tv"`: the total variation distance `sum_v |p_v - q_v| / 2`.

    Args:
        logits: `[..., V]`, float64, float32, bfloat16 or float16. Only the last dimension must be contiguous:
            `logits[:, :-1]` is not copied.
        other_logits: the other model's, of the same shape and dtype, without gradient.
        mask: `[...]`, bool or numeric, nonzero is valid; None means all valid.
        labels: `[...]`, integer, in `[0, V)` at valid positions; -100 masks. With labels the result has their
            log-probabilities under both models.
        kind: one of the above.
        beta: weight in `"js"`, from 0 to 1. 0 means `KL(q || p)` and 1 means `KL(p || q)`, as in TRL. Not used by the
            other kinds.
        temperature: of both distributions, `> 0`; a number, or a tensor that broadcasts to `[...]`, as in
            `token_logprobs`.
        logit_scale, softcap: `> 0`; a `softcap` of None means no cap.
        inplace_backward: the backward pass writes the gradient into the storage of `logits`; see `token_logprobs`.

    Returns:
        `TokenDivergences`: `divergence`, `entropy`, `other_entropy`, `logprobs`, `other_logprobs`, each `[...]`, in
        nats; float32, or float64 for float64 logits. 0 at masked positions. A term of `"kl"` is 0 where `p_v = 0`, and
        inf where only `q_v = 0`; `"reverse_kl"` likewise. A valid row whose logits are all -inf, or with a NaN or +inf,
        gives NaN.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, parameters out of range, an unknown `kind`, `other_logits` that
            require a gradient, `inplace_backward` on a leaf, on overlapping logits or on the storage of `other_logits`.
        IndexError: a label out of range at a valid position, naming it. On CUDA only under `segkernel.debug()`:
            otherwise outputs and gradient are NaN there.

    Gradients of `divergence`, `entropy` and `logprobs` are exact (that of `"tv"` is the subgradient that is 0 where
    `p_v = q_v`); second derivatives raise RuntimeError.

    Example:
        >>> import math, torch, segkernel
        >>> logits = torch.tensor([[0.0, 0.0]])
        >>> other = torch.tensor([[0.0, math.log(3)]])
        >>> segkernel.token_divergences(logits, other).divergence  # log(2 / sqrt(3))
        tensor([0.1438])
        >>> segkernel.token_divergences(logits, other, kind="tv").divergence
        tensor([0.2500])
    """
    check_logits(logits)
    check_other_logits(logits, other_logits)
    _validate.one_of("kind", kind, DIVERGENCE)
    _validate.share("beta", beta)
    if kind == "js" and beta in (0, 1):
        kind = "kl" if beta == 1 else "reverse_kl"
    if labels is None:
        mask = _tensors.token_mask(mask, "logits[..., 0]", logits, logits.shape[:-1])
    else:
        labels, mask = check_labels(labels, mask, "logits[..., 0]", logits, logits.shape[:-1])
        _tensors.labels_in_range(labels, mask, logits.shape[-1])
    token_temperature = None
    if isinstance(temperature, Tensor):
        positions = logits.new_zeros(logits.shape[:-1], dtype=torch.int64) if labels is None else labels
        temperature, token_temperature = per_token("temperature", temperature, positions, mask)
    options = logit_options(temperature, logit_scale, softcap)
    inplace = overwrites(inplace_backward, logits)
    if inplace and logits.untyped_storage().data_ptr() == other_logits.untyped_storage().data_ptr():
        raise ValueError(
            "inplace_backward: expected other_logits in another storage than logits, which the gradient overwrites"
        )
    share = beta if kind == "js" else 0.5
    divergence, entropy, other_entropy, logprobs, other_logprobs, _ = ops.token_divergences.default(
        logits, other_logits, labels, mask, token_temperature, DIVERGENCE[kind], share, *options, inplace
    )
    if labels is None:
        return TokenDivergences(divergence, entropy, other_entropy, None, None)
    return TokenDivergences(divergence, entropy, other_entropy, logprobs, other_logprobs)


def check_other_logits(logits: Tensor, other_logits: Tensor) -> None:
    check_logits(other_logits, "other_logits")
    if other_logits.dtype is not logits.dtype:
        dtype = str(logits.dtype).removeprefix("torch.")
        raise TypeError(f"other_logits: expected {dtype} like logits, got {_validate.describe(other_logits)}")
    if other_logits.shape != logits.shape:
        raise ValueError(
            f"other_logits: expected {list(logits.shape)} like logits, got {_validate.describe(other_logits)}"
        )
    _tensors.same_device("other_logits", other_logits, "logits", logits)
    _tensors.constant("other_logits", other_logits)


@register_fake("token_divergences")
def _(
    logits: Tensor,
    other_logits: Tensor,
    labels: Tensor | None,
    mask: Tensor | None,
    token_temperature: Tensor | None,
    kind: int,
    beta: float,
    logit_scale: float,
    temperature: float,
    softcap: float | None,
    inplace_backward: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype = _tensors.compute_dtype(logits)
    shape = logits.shape[:-1]
    of_labels = (0,) if labels is None else shape
    outputs = [logits.new_empty(size, dtype=dtype) for size in (shape, shape, shape, of_labels, of_labels)]
    divergence, entropy, other_entropy, logprobs, other_logprobs = outputs
    state = logits.new_empty((*shape, 4), dtype=torch.float64)
    return divergence, entropy, other_entropy, logprobs, other_logprobs, state


@register_fake("token_divergences_backward")
def _(
    grad_divergence: Tensor | None,
    grad_entropy: Tensor | None,
    grad_logprobs: Tensor | None,
    logits: Tensor,
    *args: Any,
) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@register_fake("token_divergences_backward_")
def _(*args: Any) -> None:
    return None


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, other_logits, labels, mask, token_temperature, *ctx.options, ctx.inplace = inputs
    _, _, other_entropy, _, other_logprobs, state = output
    ctx.mark_non_differentiable(other_entropy, other_logprobs, state)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(logits, other_logits, labels, mask, token_temperature, state)


def _backward(
    ctx: Any,
    grad_divergence: Tensor | None,
    grad_entropy: Tensor | None,
    _: Any,
    grad_logprobs: Tensor | None,
    *rest: Any,
) -> tuple[Tensor | None, ...]:
    no_grads = (None,) * 10
    logits, *saved = ctx.saved_tensors
    if saved[1] is None:
        grad_logprobs = None
    upstream = (grad_divergence, grad_entropy, grad_logprobs)
    if not ctx.needs_input_grad[0] or all(grad is None for grad in upstream):
        return None, *no_grads
    grads = [None if grad is None else grad.contiguous() for grad in upstream]
    if not ctx.inplace:
        return ops.token_divergences_backward.default(*grads, logits, *saved, *ctx.options), *no_grads
    with overwritten(logits) as grad:
        ops.token_divergences_backward_.default(*grads, grad, *saved, *ctx.options)
    return grad, *no_grads


torch.library.register_autograd("segkernel::token_divergences", _backward, setup_context=_save)
no_second_derivative("token_divergences")
