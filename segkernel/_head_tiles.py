"""Logits from hidden states and the LM head, in tiles, so that they are never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from segkernel import _tensors
from segkernel._library import ops

# Logits are computed in tiles of all valid tokens by a slice of the vocabulary. A slice is wide enough for matrix
# products at full speed and at most 1/16 of the vocabulary, which bounds tile and workspace relative to the logits.
# On the CPU a tile of 1,024 tokens fits the cache; on CUDA a tile is at most 256 MB of bfloat16.
TILE_ELEMENTS = {"cpu": 1 << 23, "cuda": 1 << 27}
NARROWEST_TILE = 1024
TILES_AT_LEAST = 16


def slices_of(tokens: int, vocabulary: int, device: str) -> Iterator[tuple[int, int]]:
    """Yields `[first, last)` of every slice of the vocabulary; the slices are of about equal width."""
    widest = max(min(TILE_ELEMENTS[device] // max(tokens, 1), vocabulary // TILES_AT_LEAST), NARROWEST_TILE)
    width = -(-vocabulary // -(-vocabulary // widest) // 64) * 64
    for first in range(0, vocabulary, width):
        yield first, min(first + width, vocabulary)


def may_compact(labels: Tensor, mask: Tensor | None) -> bool:
    """Whether the host may read the number of valid tokens: on CUDA that synchronizes."""
    return not labels.is_cuda or (mask is not None and not torch.cuda.is_current_stream_capturing())


class Tiles:
    """Iterator over logits tiles `[n, width]` in one reused buffer, with the slices of the weight they are made of.

    Tiles and slices have the dtype of the matrix products. Invalid tokens are dropped, or labeled -100 when compaction
    would need a device synchronization.

    Args:
        hidden: `[..., H]`.
        weight, bias: of the whole vocabulary, or of the shard of it that begins at column `first`.
        labels, mask, token_temperature: of all tokens.
        dtype: of the matrix products.
        vocabulary: upper bound of the labels; default: the number of rows of the weight.
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
        *,
        first: int = 0,
        vocabulary: int | None = None,
    ) -> None:
        for name, value in (("hidden", hidden), ("weight", weight), *([] if bias is None else [("bias", bias)])):
            _tensors.tensor(name, value)
        if weight.dim() != 2 or weight.shape[0] == 0:
            raise ValueError(f"weight: expected [V, H] with V >= 1, got {list(weight.shape)}")
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(f"bias: expected [{weight.shape[0]}], got {list(bias.shape)}")
        self.dims, self.first = hidden.dim() - 1, first
        is_valid = ops._linear_token_logprobs_valid.default(  # [N]
            labels, mask, token_temperature, self.dims, weight.shape[0] if vocabulary is None else vocabulary
        )
        compacts = may_compact(labels, mask)
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
        self.weight, self.bias = weight, bias

    def hidden_of_valid(self) -> Tensor:
        """`hidden` with 0 at invalid tokens, whose hidden states may be NaN."""
        return self.hidden if self.is_valid is None else torch.where(self.is_valid, self.hidden, 0)

    def compact(self, values: Tensor) -> Tensor:
        """Rows of the tokens that are multiplied, from values of all tokens `[...]`."""
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
        slices = list(slices_of(tokens, self.weight.shape[0], self.hidden.device.type)) if tokens else []
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

    def gradients(
        self,
        grad_logprobs: Tensor | None,
        grad_entropies: Tensor | None,
        hidden: Tensor,
        entropies: Tensor,
        lse: Tensor,
        options: tuple[float, float, float | None],
        needed: tuple[bool, bool, bool],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of `hidden`, weight and bias, each empty unless needed.

        Args:
            grad_logprobs, grad_entropies: of the outputs, in the shape of the labels and of the tokens.
            hidden: of all tokens.
            entropies, lse: results of the forward pass.
            options: scale, temperature and softcap of the logits.
            needed: which gradients are needed.
        """
        weight, bias = self.weight, self.bias
        hidden_needed, weight_needed, bias_needed = needed

        def per_row(values: Tensor | None) -> Tensor | None:
            return None if values is None else self.compact(values).to(torch.float64).contiguous()

        upstream = (per_row(grad_logprobs), per_row(grad_entropies))
        known = (per_row(entropies if grad_entropies is not None else lse), per_row(lse))
        dtype = _tensors.compute_dtype(self.hidden)
        grad_hidden = torch.zeros_like(self.hidden, dtype=dtype) if hidden_needed else hidden.new_empty(0)
        grad_weight = weight.new_empty(weight.shape) if weight_needed else weight.new_empty(0)
        grad_bias = weight.new_empty(0) if bias is None or not bias_needed else bias.new_empty(bias.shape)
        if not self.hidden.shape[0]:
            grad_weight.zero_()
            grad_bias.zero_()
        hidden_of_valid = self.hidden_of_valid() if weight_needed else self.hidden
        product = self.scratch(self.hidden.shape[0], like=grad_hidden) if hidden_needed and not hidden.is_cuda else None
        for first, last, tile, weight_slice in self:
            ops._linear_token_logprobs_gradient_.default(
                tile, self.labels, self.first + first, *upstream, *known, self.temperature, *options
            )
            if hidden_needed:
                add_product(grad_hidden, tile, weight_slice, product)
            if weight_needed and weight.dtype == tile.dtype:
                torch.mm(tile.T, hidden_of_valid, out=grad_weight[first:last])
            elif weight_needed:
                # The converted slice of the weight is not needed any more, so the product overwrites it.
                grad_weight[first:last] = torch.mm(tile.T, hidden_of_valid, out=weight_slice)
            if bias_needed:
                grad_bias[first:last] = tile.sum(0, dtype=dtype)
        if hidden_needed:
            grad_hidden = self.spread(grad_hidden.to(hidden.dtype), hidden)
        return grad_hidden, grad_weight, grad_bias


def add_product(total: Tensor, a: Tensor, b: Tensor, scratch: Tensor | None) -> None:
    """`total += a @ b`. For `a`, `b` of lower precision cuBLAS accumulates into `total`; the CPU needs `scratch`."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif scratch is None:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:
        total.add_(torch.mm(a, b, out=scratch))
