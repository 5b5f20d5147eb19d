"""Label log-probabilities from hidden states and the LM head, without the logits in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel._enums import LOGPROB_OUTPUTS
from segkernel._library import cuda_kernels, ops, register_fake
from segkernel.ops.token_logprobs import (
    COMPUTED_FROM,
    check_labels,
    fake_outputs,
    logit_options,
    outputs_code,
    per_token,
    results,
)
from segkernel.types import TokenLogprobs

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from segkernel.types import LogitOptions

# Logits are computed in tiles of all valid tokens by a slice of the vocabulary. A slice is wide enough for matrix
# products at full speed and at most 1/16 of the vocabulary, which bounds tile and workspace relative to the logits.
# On the CPU a tile of 1,024 tokens fits the cache; on CUDA a tile is at most 256 MB of bfloat16.
TILE_ELEMENTS = {"cpu": 1 << 23, "cuda": 1 << 27}
NARROWEST_TILE = 1024
TILES_AT_LEAST = 16


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
    _tensors.labels_in_range(labels, mask, weight.shape[0])
    temperature, token_temperature = per_token("temperature", temperature, labels, mask, hidden.dim() - 1)
    options = logit_options(temperature, logit_scale, softcap)
    computed, dtype = outputs_code(entropy, outputs), _dtype_code(compute_dtype, hidden)
    found = ops.linear_token_logprobs.default(
        hidden, weight, bias, labels, mask, token_temperature, *options, computed, dtype
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


def _slices(tokens: int, vocabulary: int, device: str) -> Iterator[tuple[int, int]]:
    """Yields `[first, last)` of every slice of the vocabulary; the slices are of about equal width."""
    widest = max(min(TILE_ELEMENTS[device] // max(tokens, 1), vocabulary // TILES_AT_LEAST), NARROWEST_TILE)
    width = -(-vocabulary // -(-vocabulary // widest) // 64) * 64
    for first in range(0, vocabulary, width):
        yield first, min(first + width, vocabulary)


def _may_compact(labels: Tensor, mask: Tensor | None) -> bool:
    """Whether the host may read the number of valid tokens: on CUDA that synchronizes."""
    return not labels.is_cuda or (mask is not None and not torch.cuda.is_current_stream_capturing())


class _Tiles:
    """Iterator over logits tiles `[n, width]` in one reused buffer, with the slices of the weight they are made of.

    Tiles and slices have the dtype of the matrix products. Invalid tokens are dropped, or labeled -100 when compaction
    would need a device synchronization.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        mask: Tensor | None,
        token_temperature: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        self.dims = hidden.dim() - 1  # of the tokens
        is_valid = ops._linear_token_logprobs_valid.default(  # [N]
            labels, mask, token_temperature, self.dims, weight.shape[0]
        )
        compacts = _may_compact(labels, mask)
        self.valid = is_valid.nonzero().squeeze(-1) if compacts else None
        self.tokens = is_valid.shape[0]
        self.all_kept = self.valid is None or self.valid.shape[0] == self.tokens
        self.hidden = self.compact(hidden).to(dtype)  # [n, H]
        self.labels = self.compact(labels)  # [n] or [n, K]
        self.temperature = None if token_temperature is None else self.compact(token_temperature)  # [n]
        self.is_valid = None if compacts else is_valid[:, None]
        if self.is_valid is not None:
            self.labels = torch.where(is_valid if self.labels.dim() == 1 else self.is_valid, self.labels, -100)
            if self.temperature is not None:
                self.temperature = torch.where(is_valid, self.temperature, 1.0)
        if weight.dim() != 2 or weight.shape[0] == 0:
            raise ValueError(f"weight: expected [V, H] with V >= 1, got {list(weight.shape)}")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"bias: expected [{weight.shape[0]}], got {list(bias.shape)}")
        self.weight, self.bias = weight, bias

    def hidden_of_valid(self) -> Tensor:
        """`hidden` with 0 at invalid tokens, whose hidden states may be NaN."""
        return self.hidden if self.is_valid is None else torch.where(self.is_valid, self.hidden, 0)

    def compact(self, values: Tensor) -> Tensor:
        """Values of all tokens `[...]` to rows of the multiplied ones."""
        rows = values.reshape(self.tokens, *values.shape[self.dims :])
        return rows if self.all_kept else rows[self.valid]

    def spread(self, rows: Tensor, like: Tensor) -> Tensor:
        """Inverse of `compact`, in the shape of `like`, with 0 at dropped tokens."""
        if self.all_kept:
            return rows.view(like.shape)
        every = rows.new_zeros(like.shape)
        every.view(-1, *rows.shape[1:])[self.valid] = rows
        return every

    def __iter__(self) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        tokens, dtype = self.hidden.shape[0], self.hidden.dtype
        slices = list(_slices(tokens, self.weight.shape[0], self.hidden.device.type)) if tokens else []
        width = max((last - first for first, last in slices), default=0)
        buffer = self.hidden.new_empty(width * tokens)
        converted = self.scratch(width, like=self.weight)
        for first, last in slices:
            tile = buffer[: tokens * (last - first)].view(tokens, last - first)
            weight = self.weight[first:last]
            if converted is not None:
                weight = converted[: last - first].copy_(weight)
            if self.bias is None:
                torch.mm(self.hidden, weight.T, out=tile)
            else:
                torch.addmm(self.bias[first:last].to(dtype), self.hidden, weight.T, out=tile)
            yield first, last, tile, weight

    def scratch(self, rows: int, like: Tensor) -> Tensor | None:
        """Uninitialized `[rows, H]` in the dtype of the products, or None if that is the dtype of `like`."""
        return None if like.dtype == self.hidden.dtype else self.hidden.new_empty((rows, self.hidden.shape[1]))


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
    tiles = _Tiles(hidden, weight, bias, labels, mask, token_temperature, _dtype_of(compute_dtype))
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
    tiles = _Tiles(hidden, weight, bias, labels, mask, token_temperature, _dtype_of(compute_dtype))
    options = (tiles.temperature, logit_scale, temperature, softcap)

    def per_row(values: Tensor | None) -> Tensor | None:
        return None if values is None else tiles.compact(values).to(torch.float64).contiguous()

    upstream = (per_row(grad_logprobs), per_row(grad_entropies))
    known = (per_row(entropies if grad_entropies is not None else lse), per_row(lse))
    dtype = _tensors.compute_dtype(tiles.hidden)
    grad_hidden = torch.zeros_like(tiles.hidden, dtype=dtype) if hidden_needed else hidden.new_empty(0)
    grad_weight = weight.new_empty(weight.shape) if weight_needed else weight.new_empty(0)
    grad_bias = weight.new_empty(0) if bias is None or not bias_needed else bias.new_empty(bias.shape)
    if not tiles.hidden.shape[0]:
        grad_weight.zero_()
        grad_bias.zero_()
    hidden_of_valid = tiles.hidden_of_valid() if weight_needed else tiles.hidden
    product = tiles.scratch(tiles.hidden.shape[0], like=grad_hidden) if hidden_needed and not hidden.is_cuda else None
    for first, last, tile, weight_slice in tiles:
        ops._linear_token_logprobs_gradient_.default(tile, tiles.labels, first, *upstream, *known, *options)
        if hidden_needed:
            _add_product(grad_hidden, tile, weight_slice, product)
        if weight_needed and weight.dtype == tile.dtype:
            torch.mm(tile.T, hidden_of_valid, out=grad_weight[first:last])
        elif weight_needed:
            # The slice of the weight in the dtype of the products is not needed any more.
            grad_weight[first:last] = torch.mm(tile.T, hidden_of_valid, out=weight_slice)
        if bias_needed:
            grad_bias[first:last] = tile.sum(0, dtype=dtype)
    if hidden_needed:
        grad_hidden = tiles.spread(grad_hidden.to(hidden.dtype), hidden)
    return grad_hidden, grad_weight, grad_bias


def _add_product(total: Tensor, a: Tensor, b: Tensor, scratch: Tensor | None) -> None:
    """`total += a @ b`. For `a`, `b` of lower precision cuBLAS accumulates into `total`; the CPU needs `scratch`."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif scratch is None:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total.add_(torch.mm(a, b, out=scratch))


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


def _no_second_derivative(ctx: Any, *grads: Tensor) -> None:
    raise RuntimeError("linear_token_logprobs: second derivatives are not available; its gradient has no gradient")


torch.library.register_autograd("segkernel::linear_token_logprobs", _backward, setup_context=_save)
torch.library.register_autograd("segkernel::linear_token_logprobs_backward", _no_second_derivative)
