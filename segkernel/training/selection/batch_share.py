"""Choice of a share of a micro-batch's tokens, all rows together, for methods that choose at every step."""

import torch
from torch import Tensor

import segkernel


def largest_share(values: Tensor, mask: Tensor, fraction: float) -> Tensor:
    """Boolean `[B, T]`: the `ceil(fraction * n)` of the `n` tokens under a mask `[B, T]` with the largest values."""
    return segkernel.select_tokens(values, mask, fraction=fraction, scope="batch")


def share_count(mask: Tensor, fraction: float) -> Tensor:
    """Number of tokens that `largest_share` selects, whatever their values: a scalar.

    Example:
        >>> share_count(torch.tensor([[True, True, False], [True, False, False]]), 0.5)
        tensor(2)
    """
    return largest_share(torch.zeros(mask.shape, device=mask.device), mask, fraction).sum()
