"""Normalization of rewards within groups of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel._library import no_gradient, ops, register_fake


def group_normalize(
    values: Tensor,
    counts: Tensor,
    group: Tensor,
    *,
    per: str = "group",
    scale: bool = True,
    eps: float = 1e-6,
) -> Tensor:
    """Normalizes rewards by the mean and the standard deviation of those of the same prompt.

    `(x - mean) / (std + eps)`, as the advantages of GRPO (arXiv 2402.03300, sec. 4.1), for any number of rewards per
    sample: one per response, segment, turn or process step. Without `scale` only the mean is subtracted (Dr. GRPO,
    arXiv 2503.20783).

    Args:
        values: rewards, `[B, S]`, one row per sample; float64, float32, bfloat16 or float16. Those past `counts` are
            not used.
        counts: number of rewards per row, integer `[B]`; a number above `S` counts as `S`.
        group: integer `[B]`, any values: rows of equal value are samples of one prompt. They may be in any order.
        per: "group" takes mean and standard deviation over all rewards of a group, each with the same weight; "segment"
            takes them over the rewards of a group that have the same index in their rows.
        scale: whether to divide by the standard deviation (with Bessel's correction) plus `eps`.
        eps: `>= 0`, in units of reward.

    Returns:
        `[B, S]`, float32 (float64 for float64 values), 0 past `counts`. A reward that is normalized by itself gives 0,
        and so do equal ones. Sums are in float64 and in the order of the group's rows, so the bits do not depend on
        other groups. Constants to autograd.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, an unknown `per`, a negative `eps`.

    Example:
        >>> import torch, segkernel
        >>> rewards, counts = torch.tensor([[1.0, 3.0], [2.0, 0.0], [5.0, 0.0]]), torch.tensor([2, 1, 1])
        >>> segkernel.group_normalize(rewards, counts, torch.tensor([7, 7, 8]), scale=False)
        tensor([[-1.,  1.],
                [ 0.,  0.],
                [ 0.,  0.]])
    """
    _tensors.segment_values("values", values, counts)
    _tensors.tensor("group", group, _tensors.INTEGERS, "integer")
    if group.shape != counts.shape:
        raise ValueError(f"group: expected [{values.shape[0]}], got {_validate.describe(group)}")
    _tensors.same_device("group", group, "values", values)
    _validate.one_of("per", per, ("group", "segment"))
    _validate.boolean("scale", scale)
    _validate.weight("eps", eps)
    if counts.dtype is torch.int64:
        counts = counts.clamp(0, values.shape[1])  # the conversion to int32 would turn 2^32 into 0
    normalized: Tensor = ops.group_normalize.default(
        values.contiguous(),
        counts.to(torch.int32).contiguous(),
        group.to(torch.int64).contiguous(),
        per == "segment",
        scale,
        eps,
    )
    return normalized


no_gradient("group_normalize")


@register_fake("group_normalize")
def _(values: Tensor, counts: Tensor, group: Tensor, per_segment: bool, scale: bool, eps: float) -> Tensor:
    return torch.empty_like(values, dtype=_tensors.compute_dtype(values))
