"""Segmentation at tokens of high entropy."""

from __future__ import annotations

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel._library import ops, register_fake


def segment_by_entropy(
    entropy: Tensor,
    mask: Tensor | None = None,
    *,
    threshold: float | Tensor,
    min_length: int = 1,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Starts a segment at each token whose predictive entropy exceeds a threshold.

    A segment starts at the first valid token, and at `t` where `entropy_t > threshold` and the running segment
    already has `min_length` tokens. Source: Segmenting Text and Learning Their Rewards, arXiv 2501.02790, sec. 3.1
    (cut-offs of 1.75 and 2.0 nats; 0 gives token-level rewards, infinity one segment per response).

    Args:
        entropy: entropy of the distribution that produced each token, in nats, `[B, T]`, or packed `[N]` with
            `cu_seqlens`; float64, float32, bfloat16 or float16.
        mask: same shape, bool or numeric, nonzero is valid; None means all valid.
        threshold: a scalar or one per row `[B]`, in nats.
        min_length: `>= 1`, minimal number of tokens in a segment before another may start.
        cu_seqlens: `[B + 1]` int32 or int64, row offsets of packed tokens.

    Returns:
        `(ids, counts)`: int32, the shape of `entropy`, index of the token's segment in its row, -1 at masked
        positions; and int32 `[B]`, the number of segments.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, `min_length < 1`, bad offsets.

    Example:
        >>> import torch, segkernel
        >>> ids, counts = segkernel.segment_by_entropy(torch.tensor([[0.2, 0.1, 2.5, 0.3, 1.9]]), threshold=1.75)
        >>> ids
        tensor([[0, 0, 1, 1, 2]], dtype=torch.int32)
        >>> counts
        tensor([3], dtype=torch.int32)
    """
    entropy, mask, cu_seqlens = _tensors.tokens("entropy", entropy, mask, cu_seqlens)
    value, row_value = _tensors.per_row("threshold", threshold, entropy, cu_seqlens)
    _validate.integer("min_length", min_length, at_least=1)
    ids, counts = ops.segment_by_entropy.default(entropy, mask, value, row_value, min_length, cu_seqlens)
    return ids, counts


@register_fake("segment_by_entropy")
def _(
    entropy: Tensor,
    mask: Tensor | None,
    threshold: float,
    row_threshold: Tensor | None,
    min_length: int,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    rows = _tensors.row_count(entropy, cu_seqlens)
    return torch.empty_like(entropy, dtype=torch.int32), entropy.new_empty((rows,), dtype=torch.int32)
