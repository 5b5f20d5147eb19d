"""Sums and means of label log-probabilities per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel.ops.segment_reduce import segment_reduce
from segkernel.ops.token_logprobs import check_labels, check_logits, token_logprobs

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from segkernel.types import LogitOptions


@overload
def sequence_logprobs(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    weights: Tensor | None = ...,
    reduce: str = ...,
    inplace_backward: bool = ...,
    cu_seqlens: Tensor | None = ...,
    entropy: Literal[False] = False,
    **options: Unpack[LogitOptions],
) -> Tensor: ...


@overload
def sequence_logprobs(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    weights: Tensor | None = ...,
    reduce: str = ...,
    inplace_backward: bool = ...,
    cu_seqlens: Tensor | None = ...,
    entropy: Literal[True],
    **options: Unpack[LogitOptions],
) -> tuple[Tensor, Tensor]: ...


@overload
def sequence_logprobs(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    weights: Tensor | None = ...,
    reduce: str = ...,
    inplace_backward: bool = ...,
    cu_seqlens: Tensor | None = ...,
    entropy: bool,
    **options: Unpack[LogitOptions],
) -> Tensor | tuple[Tensor, Tensor]: ...


def sequence_logprobs(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    reduce: str = "sum",
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    entropy: bool = False,
    inplace_backward: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Sums or averages the label log-probabilities of every row, reading only the logits of valid tokens.

    The sequence log-probability of DPO (arXiv 2305.18290, eq. 7); with the loss mask of `segment`, that of Adaptive
    Segment-level Reward (arXiv 2411.00809).

    Args:
        logits: `[B, T, V]`, or packed `[N, V]` with `cu_seqlens`; see `token_logprobs`.
        labels: `[B, T]` or `[N]`, integer; -100 masks.
        mask: same shape, bool or numeric, nonzero is valid; None means all valid.
        weights: same shape, floating-point, a factor per token. Weights of masked tokens are never used.
        reduce: "sum" or "mean"; with weights `w`, `sum(w * logprob)` or that over `sum(w)`.
        temperature, logit_scale, softcap, inplace_backward: as in `token_logprobs`.
        entropy: also return the entropies, reduced in the same way.
        cu_seqlens: `[B + 1]` int32 or int64, row offsets of packed tokens.

    Returns:
        `[B]`, or a pair of them with `entropy`; float32, or float64 for float64 logits. 0 for a row without valid
        tokens, or for a mean whose weights sum to 0. Summed in the order of the tokens.

    Raises:
        TypeError, ValueError, IndexError: as `token_logprobs`; ValueError for an unknown `reduce` or bad offsets.

    Example:
        >>> import torch, segkernel
        >>> logits, labels = torch.zeros(1, 3, 2), torch.tensor([[0, 1, -100]])
        >>> segkernel.sequence_logprobs(logits, labels)
        tensor([-1.3863])
    """
    _validate.one_of("reduce", reduce, ("sum", "mean"))
    check_logits(logits)
    labels, mask = check_labels(labels, mask, "logits[..., 0]", logits, logits.shape[:-1])
    check_rows(labels, cu_seqlens)
    valid = labels != -100 if mask is None else mask & (labels != -100)
    ids = valid.to(torch.int32) - 1  # 0 at valid tokens, -1 at masked ones: one segment per row
    total = None
    if weights is not None:
        _tensors.tensor("weights", weights)
        if weights.shape != labels.shape:
            raise ValueError(f"weights: expected {list(labels.shape)} like labels, got {_validate.describe(weights)}")
        _tensors.same_device("weights", weights, "logits", logits)
        weights = weights.to(_tensors.compute_dtype(logits)).where(valid, 0)
        total = segment_reduce(weights, ids, 1, cu_seqlens=cu_seqlens) if reduce == "mean" else None
    per_token = token_logprobs(
        logits,
        labels,
        valid,
        temperature=temperature,
        logit_scale=logit_scale,
        softcap=softcap,
        entropy=entropy,
        inplace_backward=inplace_backward,
    )

    def reduced(values: Tensor) -> Tensor:
        if weights is None:
            return segment_reduce(values, ids, 1, reduce=reduce, cu_seqlens=cu_seqlens).squeeze(-1)
        sums = segment_reduce(weights * values, ids, 1, cu_seqlens=cu_seqlens)
        if total is not None:
            sums = torch.where(total == 0, 0.0, sums / torch.where(total == 0, 1.0, total))
        return sums.squeeze(-1)

    if isinstance(per_token, Tensor):
        return reduced(per_token)
    logprobs, entropies = per_token
    return reduced(logprobs), reduced(entropies)


def check_rows(labels: Tensor, cu_seqlens: Tensor | None) -> None:
    """Validates `[B, T]` labels, or packed labels and their offsets, before any logits are read."""
    if cu_seqlens is None:
        if labels.dim() != 2:
            raise ValueError(f"labels: expected [B, T], or [N] with cu_seqlens, got {_validate.describe(labels)}")
        return
    _tensors.offsets(cu_seqlens, "labels", labels)
    if not labels.is_cuda:  # the CPU kernel validates the values of the offsets
        segment_reduce(torch.zeros_like(labels, dtype=torch.float32), labels, 0, cu_seqlens=cu_seqlens)
