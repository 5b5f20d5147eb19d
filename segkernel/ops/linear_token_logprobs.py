"""Label log-probabilities from hidden states and the LM head, without the logits in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel._enums import LOGPROB_OUTPUTS
from segkernel._head_tiles import TILE_ELEMENTS, Tiles
from segkernel._library import cuda_kernels, no_second_derivative, ops, register_fake
from segkernel.ops.token_logprobs import (
    COMPUTED_FROM,
    check_labels,
    fake_outputs,
    logit_options,
    outputs_code,
    per_token,
    results,
)
from segkernel.ops.vocab_parallel_linear import vocab_parallel_linear
from segkernel.ops.vocab_parallel_token_logprobs import first_column
from segkernel.types import TokenLogprobs

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from typing_extensions import Unpack

    from segkernel.types import LogitOptions


@overload
def linear_token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = ...,
    compute_dtype: torch.dtype | None = ...,
    entropy: Literal[False] = False,
    outputs: None = None,
    group: ProcessGroup | None = ...,
    first: int | None = ...,
    **options: Unpack[LogitOptions],
) -> Tensor: ...


@overload
def linear_token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = ...,
    compute_dtype: torch.dtype | None = ...,
    entropy: Literal[True],
    outputs: None = None,
    group: ProcessGroup | None = ...,
    first: int | None = ...,
    **options: Unpack[LogitOptions],
) -> tuple[Tensor, Tensor]: ...


@overload
def linear_token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = ...,
    compute_dtype: torch.dtype | None = ...,
    entropy: bool,
    outputs: None = None,
    group: ProcessGroup | None = ...,
    first: int | None = ...,
    **options: Unpack[LogitOptions],
) -> Tensor | tuple[Tensor, Tensor]: ...


@overload
def linear_token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = ...,
    compute_dtype: torch.dtype | None = ...,
    entropy: Literal[False] = False,
    outputs: Sequence[str],
    **options: Unpack[LogitOptions],
) -> TokenLogprobs: ...


def linear_token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    entropy: bool = False,
    outputs: Sequence[str] | None = None,
    compute_dtype: torch.dtype | None = None,
    group: ProcessGroup | None = None,
    first: int | None = None,
) -> Tensor | tuple[Tensor, Tensor] | TokenLogprobs:
    """`token_logprobs(hidden @ weight.T + bias, labels, mask)`, without materializing the logits.

    Only the hidden states of valid tokens are multiplied, with one slice of the vocabulary at a time; the backward
    pass recomputes each tile of logits. The gradient of `weight` is one matrix product per slice, that of `hidden` is
    accumulated in float32 over the slices.

    On CUDA, passing `mask` costs one device synchronization per pass, because the size of the matrix product depends on
    the number of valid tokens. Without `mask`, or while a CUDA graph is captured, all tokens are multiplied, and those
    that are masked or whose label is -100 are ignored. So pass `mask=labels != -100` if many labels are -100.

    Args:
        hidden: `[..., H]`, float64, float32, bfloat16 or float16.
        weight: `[V, H]`, the LM head, of any of these dtypes.
        labels: `[...]`, integer, in `[0, V)` at valid positions. -100 masks. Or `[..., K]`, as in `token_logprobs`.
        mask: `[...]`, bool or numeric, nonzero is valid; None means all valid.
        bias: `[V]`, of any of these dtypes.
        temperature, logit_scale, softcap, entropy, outputs: as in `token_logprobs`.
        compute_dtype: dtype of the matrix products, and of the logits; by default that of autocast where it is enabled,
            and otherwise that of `hidden`. Inputs of other dtypes are converted, `weight` one slice at a time. As in
            autocast, float64 hidden states stay so by default. Gradients have the dtypes of the inputs.
        group: processes that share the vocabulary; `weight` and `bias` are then this process's rows of the head, and
            the exchange is that of `vocab_parallel_token_logprobs`. The gradient of `hidden` is summed over the group.
            One label per token, without `outputs`.
        first: with `group`, as in `vocab_parallel_token_logprobs`.

    Returns:
        As `token_logprobs`; float64 if the matrix products are.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, parameters that are not positive.
        IndexError: as `token_logprobs`.

    Gradients of both outputs flow to `hidden`, `weight` and `bias`, each computed only when needed; second
    derivatives raise RuntimeError.

    Example:
        >>> import torch, segkernel
        >>> hidden, weight = torch.ones(2, 3), torch.zeros(4, 3)
        >>> segkernel.linear_token_logprobs(hidden, weight, torch.tensor([2, -100]))
        tensor([-1.3863,  0.0000])
    """
    _tensors.tensor("hidden", hidden)
    if hidden.dim() == 0:
        raise ValueError(f"hidden: expected [..., H], got {_validate.describe(hidden)}")
    _check_with_hidden("weight", weight, hidden)
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[-1]:
        raise ValueError(f"weight: expected [V, {hidden.shape[-1]}] to match hidden, got {_validate.describe(weight)}")
    if bias is not None:
        _check_with_hidden("bias", bias, hidden)
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"bias: expected [{weight.shape[0]}] to match weight, got {_validate.describe(bias)}")
    labels, mask = check_labels(labels, mask, "hidden[..., 0]", hidden, hidden.shape[:-1], several=True)
    if group is None:
        _tensors.labels_in_range(labels, mask, weight.shape[0])
    temperature, token_temperature = per_token("temperature", temperature, labels, mask, hidden.dim() - 1)
    options = logit_options(temperature, logit_scale, softcap)
    if group is not None:
        if labels.dim() != hidden.dim() - 1:
            raise ValueError(f"labels: expected one per token with group, got {_validate.describe(labels)}")
        if outputs is not None:
            raise ValueError(f"outputs: expected None with group, got {outputs!r}")
        _validate.boolean("entropy", entropy)
        dtype = _dtype_of(_dtype_code(compute_dtype, hidden))
        first = first_column(first, weight.shape[0], weight.device, group)
        logprobs, entropies = vocab_parallel_linear(
            hidden, weight, bias, labels, mask, token_temperature, options, dtype, entropy, group, first
        )
        return (logprobs, entropies) if entropy else logprobs
    computed, code = outputs_code(entropy, outputs), _dtype_code(compute_dtype, hidden)
    found = ops.linear_token_logprobs.default(
        hidden, weight, bias, labels, mask, token_temperature, *options, computed, code
    )
    return results(found, entropy, outputs)


def _check_with_hidden(name: str, value: Tensor, hidden: Tensor) -> None:
    _tensors.tensor(name, value)
    _tensors.same_device(name, value, "hidden", hidden)


# Dtypes of the matrix products; the operators take the index.
_COMPUTE_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _dtype_code(compute_dtype: torch.dtype | None, hidden: Tensor) -> int:
    """Index in `_COMPUTE_DTYPES` of the validated dtype, or of the default."""
    if compute_dtype is None:
        device = hidden.device.type
        autocast = device in TILE_ELEMENTS and torch.is_autocast_enabled(device) and hidden.dtype is not torch.float64
        compute_dtype = torch.get_autocast_dtype(device) if autocast else hidden.dtype
    if compute_dtype not in _COMPUTE_DTYPES:
        raise TypeError(f"compute_dtype: expected a floating-point dtype or None, got {compute_dtype!r}")
    return _COMPUTE_DTYPES.index(compute_dtype)


def _dtype_of(code: int) -> torch.dtype:
    if not 0 <= code < len(_COMPUTE_DTYPES):
        raise ValueError(f"compute_dtype: expected a code from 0 to {len(_COMPUTE_DTYPES) - 1}, got {code}")
    return _COMPUTE_DTYPES[code]


def _forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    mask: Tensor | None,
    token_temperature: Tensor | None,
    logit_scale: float,
    temperature: float,
    softcap: float | None,
    outputs: int,
    compute_dtype: int,
) -> tuple[Tensor, ...]:
    tiles = Tiles(hidden, weight, bias, labels, mask, token_temperature, _dtype_of(compute_dtype))
    options = (tiles.temperature, logit_scale, temperature, softcap)
    sums = hidden.new_empty((tiles.hidden.shape[0], 7), dtype=torch.float64)
    label_y = torch.empty_like(tiles.labels, dtype=torch.float64)
    for first, _, tile, _ in tiles:
        ops._linear_token_logprobs_fold_.default(sums, label_y, tile, tiles.labels, first, *options, outputs)
    finished = ops._linear_token_logprobs_finish.default(
        sums, label_y, tiles.labels, tiles.hidden, weight.shape[0], *options
    )
    # The same outputs for all tokens, with 0 at dropped ones.
    found = fake_outputs(labels, hidden.shape[:-1], _tensors.compute_dtype(tiles.hidden), outputs)
    return tuple(
        tiles.spread(value.to(like.dtype), like) if outputs >= least else like
        for value, like, least in zip(finished, found, COMPUTED_FROM, strict=True)
    )


def _gradients(
    grad_logprobs: Tensor | None,
    grad_entropies: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    mask: Tensor | None,
    token_temperature: Tensor | None,
    entropies: Tensor,
    lse: Tensor,
    logit_scale: float,
    temperature: float,
    softcap: float | None,
    compute_dtype: int,
    hidden_needed: bool,
    weight_needed: bool,
    bias_needed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    tiles = Tiles(hidden, weight, bias, labels, mask, token_temperature, _dtype_of(compute_dtype))
    return tiles.gradients(
        grad_logprobs,
        grad_entropies,
        hidden,
        entropies,
        lse,
        (logit_scale, temperature, softcap),
        (hidden_needed, weight_needed, bias_needed),
    )


# Without CUDA kernels, `_library` has registered CUDA implementations that raise.
_DEVICES = ("cpu",) if cuda_kernels.problem is not None else ("cpu", "cuda")
torch.library.impl("segkernel::linear_token_logprobs", _DEVICES, _forward)
torch.library.impl("segkernel::linear_token_logprobs_backward", _DEVICES, _gradients)


@register_fake("linear_token_logprobs")
def _(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    mask: Tensor | None,
    token_temperature: Tensor | None,
    logit_scale: float,
    temperature: float,
    softcap: float | None,
    outputs: int,
    compute_dtype: int,
) -> tuple[Tensor, ...]:
    wide = _dtype_of(compute_dtype) is torch.float64
    return fake_outputs(labels, hidden.shape[:-1], torch.float64 if wide else torch.float32, outputs)


@register_fake("linear_token_logprobs_backward")
def _(
    grad_logprobs: Tensor | None,
    grad_entropies: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    mask: Tensor | None,
    token_temperature: Tensor | None,
    entropies: Tensor,
    lse: Tensor,
    logit_scale: float,
    temperature: float,
    softcap: float | None,
    compute_dtype: int,
    hidden_needed: bool,
    weight_needed: bool,
    bias_needed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        hidden.new_empty(hidden.shape if hidden_needed else (0,)),
        weight.new_empty(weight.shape if weight_needed else (0,)),
        weight.new_empty(0) if bias is None or not bias_needed else bias.new_empty(bias.shape),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, labels, mask, token_temperature, *ctx.options, outputs, ctx.compute_dtype = inputs
    _, entropies, lse, *statistics = output
    ctx.has_entropies = outputs >= LOGPROB_OUTPUTS["entropies"]
    ctx.mark_non_differentiable(lse, *statistics)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(hidden, weight, bias, labels, mask, token_temperature, entropies, lse)


def _backward(
    ctx: Any, grad_logprobs: Tensor | None, grad_entropies: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    if not ctx.has_entropies:
        grad_entropies = None
    if grad_logprobs is None and grad_entropies is None:
        return (None,) * 11
    needed = ctx.needs_input_grad[:3]
    grads = ops.linear_token_logprobs_backward.default(
        grad_logprobs, grad_entropies, *ctx.saved_tensors, *ctx.options, ctx.compute_dtype, *needed
    )
    return *(grad if need else None for grad, need in zip(grads, needed, strict=True)), *(None,) * 8


torch.library.register_autograd("segkernel::linear_token_logprobs", _backward, setup_context=_save)
no_second_derivative("linear_token_logprobs")
