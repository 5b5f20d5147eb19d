"""Sums and means of label log-probabilities per segment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from torch import Tensor

from segkernel import _tensors, _validate
from segkernel.ops.segment_reduce import segment_reduce
from segkernel.ops.sequence_logprobs import check_rows
from segkernel.ops.token_logprobs import check_labels, check_logits, token_logprobs

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from segkernel.types import LogitOptions


@overload
def segment_logprobs(
    logits: Tensor,
    labels: Tensor,
    ids: Tensor,
    num_segments: int,
    *,
    reduce: str = ...,
    inplace_backward: bool = ...,
    cu_seqlens: Tensor | None = ...,
    entropy: Literal[False] = False,
    **options: Unpack[LogitOptions],
) -> Tensor: ...


@overload
def segment_logprobs(
    logits: Tensor,
    labels: Tensor,
    ids: Tensor,
    num_segments: int,
    *,
    reduce: str = ...,
    inplace_backward: bool = ...,
    cu_seqlens: Tensor | None = ...,
    entropy: Literal[True],
    **options: Unpack[LogitOptions],
) -> tuple[Tensor, Tensor]: ...


@overload
def segment_logprobs(
    logits: Tensor,
    labels: Tensor,
    ids: Tensor,
    num_segments: int,
    *,
    reduce: str = ...,
    inplace_backward: bool = ...,
    cu_seqlens: Tensor | None = ...,
    entropy: bool,
    **options: Unpack[LogitOptions],
) -> Tensor | tuple[Tensor, Tensor]: ...


def segment_logprobs(
    logits: Tensor,
    labels: Tensor,
    ids: Tensor,
    num_segments: int,
    *,
    reduce: str = "sum",
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    entropy: bool = False,
    inplace_backward: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Sums or averages the label log-probabilities of every segment, reading only the logits of its valid tokens.

    The segment action's log-probability of segment-level PPO (arXiv 2501.02790).

    Args:
        logits: `[B, T, V]`, or packed `[N, V]` with `cu_seqlens`; see `token_logprobs`.
        labels: `[B, T]` or `[N]`, integer; -100 masks.
        ids: same shape, integer: the token's segment in its row, as `segment` returns them. Tokens with a negative id
            or one of at least `num_segments` are masked: their logits are not read.
        num_segments: `S`.
        reduce: "sum" or "mean".
        temperature, logit_scale, softcap, inplace_backward: as in `token_logprobs`.
        entropy: also return the entropies, reduced in the same way.
        cu_seqlens: `[B + 1]` int32 or int64, row offsets of packed tokens.

    Returns:
        `[B, S]`, or a pair of them with `entropy`; float32, or float64 for float64 logits. 0 for a segment without
        valid tokens.

    Raises:
        TypeError, ValueError, IndexError: as `token_logprobs`; ValueError for an unknown `reduce`, a negative
            `num_segments` or bad offsets.

    Example:
        >>> import torch, segkernel
        >>> logits, labels, ids = torch.zeros(1, 3, 2), torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 1]])
        >>> segkernel.segment_logprobs(logits, labels, ids, 2)
        tensor([[-1.3863, -0.6931]])
    """
    _validate.one_of("reduce", reduce, ("sum", "mean"))
    _validate.integer("num_segments", num_segments, at_least=0)
    check_logits(logits)
    labels, _ = check_labels(labels, None, "logits[..., 0]", logits, logits.shape[:-1])
    check_rows(labels, cu_seqlens)
    ids = _tensors.segment_ids(ids, "labels", labels, labels.shape, cu_seqlens).masked_fill(labels == -100, -1)
    per_token = token_logprobs(
        logits,
        labels,
        (ids >= 0) & (ids < num_segments),
        temperature=temperature,
        logit_scale=logit_scale,
        softcap=softcap,
        entropy=entropy,
        inplace_backward=inplace_backward,
    )

    def reduced(values: Tensor) -> Tensor:
        return segment_reduce(values, ids, num_segments, reduce=reduce, cu_seqlens=cu_seqlens)

    if isinstance(per_token, Tensor):
        return reduced(per_token)
    logprobs, entropies = per_token
    return reduced(logprobs), reduced(entropies)
