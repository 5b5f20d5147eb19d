"""Units of the thresholds, measured on the token rewards of the training data."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from segkernel.training.rounding import rounding_error
from segkernel.training.segmentation.options import SegmentOptions
from segkernel.training.segmentation.rows import TokenRows

# Median absolute deviation to standard deviation, for normally distributed values.
NORMAL = 1.4826


def deviation(rewards: TokenRows, options: SegmentOptions) -> Tensor:
    """Standard deviation of the rewards of all tokens; 1 for fewer than two."""
    values = rewards.values.double()
    return values.std() if len(values) > 1 else values.new_ones(())


def noise(rewards: TokenRows, options: SegmentOptions) -> Tensor:
    """Robust estimate of the standard deviation of the rewards without the few that stand out.

    `1.4826 * median |r - median r|`, which is the standard deviation of normally distributed values. The deviation
    itself grows with the tokens that carry the reward, which this leaves out.

    Prefix scores drift from token to token, so their spread is no noise. Their noise is that of the differences between
    tokens of a response that are `smoothing` tokens apart, whose windows have no token in common, divided by
    `sqrt(2)`: two independent scores make up a difference.

    Raises:
        ValueError: `token_rewards` is `prefix`, and no response is longer than `smoothing` tokens.
    """
    values = rewards.values.double()
    if options.token_rewards != "prefix":
        return NORMAL * _median_deviation(values)
    distance = options.smoothing
    same_row = rewards.rows[distance:] == rewards.rows[: len(rewards.rows) - distance]
    if not same_row.any():
        raise ValueError(f"threshold_unit: expected responses of more than {distance} tokens for `noise`, got none")
    steps = (values[distance:] - values[: len(values) - distance])[same_row]
    return NORMAL * _median_deviation(steps) / math.sqrt(2)


def _median_deviation(values: Tensor) -> Tensor:
    """Median distance from the median; of two middle values the mean counts."""
    numbers = values.numpy()
    return torch.tensor(np.median(np.abs(numbers - np.median(numbers))))


UNITS: dict[str, Callable[[TokenRows, SegmentOptions], Tensor]] = {"std": deviation, "noise": noise}


def threshold_unit(rewards: TokenRows, options: SegmentOptions) -> float:
    """Size of `options.threshold_unit` in units of reward.

    Rewards that are equal up to rounding stay within a neutral zone of any width: the unit is at least their rounding
    error.
    """
    if options.threshold_unit == "reward":
        return 1.0
    measured = UNITS[options.threshold_unit](rewards, options)
    return float(max(measured, rounding_error(rewards.values.double())))
