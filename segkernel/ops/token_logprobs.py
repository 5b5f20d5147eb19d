"""Log-probabilities of labels, and entropies, read from logits in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel._enums import LOGPROB_OUTPUTS
from segkernel._inplace_backward import overwrites, overwritten
from segkernel._library import no_second_derivative, ops, register_fake
from segkernel.types import TokenLogprobs

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from segkernel.types import LogitOptions


@overload
def token_logprobs(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    inplace_backward: bool = ...,
    entropy: Literal[False] = False,
    outputs: None = None,
    **options: Unpack[LogitOptions],
) -> Tensor: ...


@overload
def token_logprobs(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    inplace_backward: bool = ...,
    entropy: Literal[True],
    outputs: None = None,
    **options: Unpack[LogitOptions],
) -> tuple[Tensor, Tensor]: ...


@overload
def token_logprobs(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    inplace_backward: bool = ...,
    entropy: bool,
    outputs: None = None,
    **options: Unpack[LogitOptions],
) -> Tensor | tuple[Tensor, Tensor]: ...


@overload
def token_logprobs(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    inplace_backward: bool = ...,
    entropy: Literal[False] = False,
    outputs: Sequence[str],
    **options: Unpack[LogitOptions],
) -> TokenLogprobs: ...


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
    inplace_backward: bool = False,
) -> Tensor | tuple[Tensor, Tensor] | TokenLogprobs:
    """Label log-probabilities `log softmax(z)[label]` and, with `entropy`, the entropies of `softmax(z)`.

    `z = cap(logit_scale * logits) / temperature` with `cap(y) = softcap * tanh(y / softcap)`. The logits are read once
    and in place. Rows that are masked, or whose label is -100, are not read.

    Args:
        logits: `[..., V]`, float64, float32, bfloat16 or float16. Only the last dimension must be contiguous:
            `logits[:, :-1]` is not copied.
        labels: `[...]`, integer, in `[0, V)` at valid positions. -100 masks. Or `[..., K]`, up to 256 labels per
            position, for example a teacher's most likely tokens: a position is masked if all of them are -100.
        mask: `[...]`, bool or numeric, nonzero is valid; None means all valid.
        temperature: `> 0`, a number or a floating-point tensor that broadcasts to `labels`: `[B, 1]` for one per row,
            `[B, T]` for one per token. A constant: it takes no gradient. Values at masked positions are not used.
        logit_scale, softcap: `> 0`; a `softcap` of None means no cap.
        entropy: also return the entropy, in nats.
        outputs: any of "entropy", "sum_squares", "mean_logit" and "is_argmax": return a `TokenLogprobs` with these
            fields, from the same read. Only the log-probabilities and the entropy are differentiable.
        inplace_backward: the backward pass writes the gradient into the logits' storage, which saves a buffer of
            their size. The logits must not be read afterwards: autograd raises if another operation saved them. Under
            `torch.compile` a buffer is still allocated.

    Returns:
        Log-probabilities in the shape of `labels`, `(log-probabilities, entropies)` with `entropy`, or a
        `TokenLogprobs` with `outputs`; float32, or float64 for float64 logits. 0 at masked positions and labels. A
        valid row whose logits are all -inf, or with a NaN or +inf, gives NaN.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, parameters that are not positive, an unknown output, both
            `entropy` and `outputs`, a `temperature` that requires grad, `inplace_backward` on a leaf or on
            overlapping logits.
        IndexError: a label out of range at a valid position, naming it. On CUDA this and a temperature per token that
            is not positive are errors only under `segkernel.debug()`: otherwise outputs and gradient are NaN there.

    Gradients of both outputs are exact; second derivatives raise RuntimeError.

    Example:
        >>> import torch, segkernel
        >>> logits = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
        >>> segkernel.token_logprobs(logits, torch.tensor([1, -100]))
        tensor([-0.6931,  0.0000])
    """
    check_logits(logits)
    labels, mask = check_labels(labels, mask, "logits[..., 0]", logits, logits.shape[:-1], several=True)
    _tensors.labels_in_range(labels, mask, logits.shape[-1])
    temperature, token_temperature = per_token("temperature", temperature, labels, mask, logits.dim() - 1)
    options = logit_options(temperature, logit_scale, softcap)
    computed = outputs_code(entropy, outputs)
    inplace = overwrites(inplace_backward, logits)
    found = ops.token_logprobs.default(logits, labels, mask, token_temperature, *options, computed, inplace)
    return results(found, entropy, outputs)


# Optional fields of TokenLogprobs, with their positions in the operators' outputs.
_FIELDS = {"entropy": 1, "sum_squares": 3, "mean_logit": 4, "is_argmax": 5}


def outputs_code(entropy: bool, outputs: Sequence[str] | None) -> int:
    """Enum value of the outputs to compute, from the validated `entropy` and `outputs`."""
    _validate.boolean("entropy", entropy)
    if outputs is None:
        return LOGPROB_OUTPUTS["entropies" if entropy else "logprobs"]
    if not isinstance(outputs, (tuple, list)):
        raise TypeError(f"outputs: expected a tuple of names, got {_validate.describe(outputs)}")
    for name in outputs:
        _validate.one_of("outputs", name, _FIELDS)
    if entropy:
        raise ValueError("entropy: expected False together with outputs, got True; add 'entropy' to outputs")
    if not outputs:
        return LOGPROB_OUTPUTS["logprobs"]
    return LOGPROB_OUTPUTS["entropies" if set(outputs) == {"entropy"} else "statistics"]


def results(
    found: Sequence[Tensor], entropy: bool, outputs: Sequence[str] | None
) -> Tensor | tuple[Tensor, Tensor] | TokenLogprobs:
    """Result of the public function, from the operator's outputs."""
    if outputs is None:
        return (found[0], found[1]) if entropy else found[0]
    return TokenLogprobs(found[0], **{name: found[_FIELDS[name]] for name in outputs})


MOST_LABELS = 256  # RowLabels::kMost in csrc/ops/token_logprobs/token_logprobs_arguments.h


def check_logits(logits: Tensor, name: str = "logits") -> None:
    _tensors.tensor(name, logits)
    if logits.dim() == 0:
        raise ValueError(f"{name}: expected [..., V], got {_validate.describe(logits)}")
    if logits.shape[-1] > 1 and logits.stride(-1) != 1:
        raise ValueError(
            f"{name}: expected a contiguous last dimension, got {_validate.describe(logits)} with strides "
            f"{list(logits.stride())}; call .contiguous() on them"
        )


def check_labels(
    labels: Tensor, mask: Tensor | None, name: str, like: Tensor, shape: torch.Size, *, several: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Labels and mask of the given shape as the operators take them: int64 and bool, contiguous.

    With `several`, the labels may have one more dimension.
    """
    _tensors.tensor("labels", labels, _tensors.INTEGERS, "integer")
    if labels.shape != shape and not (several and labels.dim() > 0 and labels.shape[:-1] == shape):
        more = f", or {[*shape, 'K']}".replace("'", "") if several else ""
        raise ValueError(f"labels: expected {list(shape)} like {name}{more}, got {_validate.describe(labels)}")
    if labels.dim() > len(shape) and not 1 <= labels.shape[-1] <= MOST_LABELS:
        raise ValueError(f"labels: expected 1 to {MOST_LABELS} labels per position, got {_validate.describe(labels)}")
    _tensors.same_device("labels", labels, name, like)
    return labels.to(torch.int64).contiguous(), _tensors.token_mask(mask, "labels", labels, shape)


def per_token(
    name: str, value: float | Tensor, labels: Tensor, mask: Tensor | None, dims: int | None = None
) -> tuple[float, Tensor | None]:
    """Positive option as the kernels' pair `(scalar, tensor or None)`; the tensor is float64, of the shape of `labels`.

    `value` is a scalar, or a tensor that broadcasts to `labels`, or to their first `dims` dimensions. Only the shape
    and type of a tensor are validated here; its values are by the CPU kernels, and elsewhere under `debug()`.
    """
    if not isinstance(value, Tensor):
        return value, None
    if dims is not None and labels.dim() > dims:
        labels = labels.amax(-1)  # -100 if all labels of the row are
    _tensors.tensor(name, value)
    _tensors.same_device(name, value, "labels", labels)
    missing = labels.dim() - value.dim()
    if missing < 0 or any(
        have not in (1, want) for have, want in zip(value.shape, labels.shape[missing:], strict=True)
    ):
        raise ValueError(
            f"{name}: expected a number or a tensor that broadcasts to {list(labels.shape)}, got "
            f"{_validate.describe(value)}"
        )
    _tensors.constant(name, value)
    every = value.expand(labels.shape)
    _tensors.positive_at_valid(name, every, labels, mask)
    return 1.0, every.to(torch.float64).contiguous()


def logit_options(temperature: float, logit_scale: float, softcap: float | None) -> tuple[float, float, float | None]:
    """The scalars that map logits to `z`, in the order of the operators' schemas."""
    _validate.positive("temperature", temperature)
    _validate.positive("logit_scale", logit_scale)
    if softcap is not None:
        _validate.positive("softcap", softcap)
    return logit_scale, temperature, softcap


@register_fake("token_logprobs")
def _(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    token_temperature: Tensor | None,
    logit_scale: float,
    temperature: float,
    softcap: float | None,
    outputs: int,
    inplace_backward: bool,
) -> tuple[Tensor, ...]:
    return fake_outputs(labels, logits.shape[:-1], _tensors.compute_dtype(logits), outputs)


# For each output of the operators, the least of LOGPROB_OUTPUTS that computes it.
COMPUTED_FROM = tuple(
    LOGPROB_OUTPUTS[least] for least in ("logprobs", "entropies", "logprobs", "statistics", "statistics", "statistics")
)


def fake_outputs(labels: Tensor, shape: Sequence[int], dtype: torch.dtype, outputs: int) -> tuple[Tensor, ...]:
    """Uninitialized outputs of the operators for rows of this shape; those that are not computed are `[0]`."""
    of_labels, of_rows = labels.shape, tuple(shape)
    shapes = (of_labels, of_rows, of_rows, of_rows, of_rows, of_labels)
    dtypes = (dtype, dtype, torch.float64, dtype, dtype, torch.bool)
    return tuple(
        labels.new_empty(size if outputs >= least else (0,), dtype=kind)
        for size, kind, least in zip(shapes, dtypes, COMPUTED_FROM, strict=True)
    )


@register_fake("token_logprobs_backward")
def _(
    grad_logprobs: Tensor | None,
    grad_entropies: Tensor | None,
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None,
    token_temperature: Tensor | None,
    entropies: Tensor,
    lse: Tensor,
    logit_scale: float,
    temperature: float,
    softcap: float | None,
) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@register_fake("token_logprobs_backward_")
def _(*args: Any) -> None:
    return None


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, labels, mask, token_temperature, *ctx.options, outputs, ctx.inplace = inputs
    _, entropies, lse, *statistics = output
    ctx.has_entropies = outputs >= LOGPROB_OUTPUTS["entropies"]
    ctx.mark_non_differentiable(lse, *statistics)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(logits, labels, mask, token_temperature, entropies, lse)


def _backward(
    ctx: Any, grad_logprobs: Tensor | None, grad_entropies: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    no_grads = (None,) * 8
    if not ctx.has_entropies:
        grad_entropies = None
    if not ctx.needs_input_grad[0] or (grad_logprobs is None and grad_entropies is None):
        return None, *no_grads
    logits, *saved = ctx.saved_tensors
    grads = [None if grad is None else grad.contiguous() for grad in (grad_logprobs, grad_entropies)]
    if not ctx.inplace:
        return ops.token_logprobs_backward.default(*grads, logits, *saved, *ctx.options), *no_grads
    with overwritten(logits) as grad:
        ops.token_logprobs_backward_.default(*grads, grad, *saved, *ctx.options)
    return grad, *no_grads


torch.library.register_autograd("segkernel::token_logprobs", _backward, setup_context=_save)
no_second_derivative("token_logprobs")
