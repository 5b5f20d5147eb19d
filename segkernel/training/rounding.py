"""Differences too small to mean anything: those that rounding makes between equal values."""

import torch
from torch import Tensor

# A float32 sum over T values is off by about sqrt(T) / 2 epsilons; 32 leave room for responses of thousands of tokens.
EPSILONS = 32 * torch.finfo(torch.float32).eps


def rounding_error(values: Tensor) -> Tensor:
    """Bound on the rounding errors of float32 values, a scalar: `32 * eps` times the largest magnitude.

    A standard deviation or a difference within this bound is one of equal values; dividing by it, or taking its sign,
    would turn rounding errors into a signal.

    Example:
        >>> bool(torch.tensor([0.7, 0.70000005]).std() <= rounding_error(torch.tensor([0.7])))
        True
    """
    return values.detach().abs().amax() * EPSILONS if values.numel() else values.new_zeros(())
