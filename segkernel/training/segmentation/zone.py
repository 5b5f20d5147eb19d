"""Neutral zone of the trigger and pivot threshold, in units of reward, fitted to the training tokens."""

from typing import NamedTuple

from torch import Tensor

from segkernel.training.rounding import rounding_error
from segkernel.training.segmentation.options import ROW_BASELINES, SegmentOptions
from segkernel.training.segmentation.rows import TokenRows
from segkernel.training.segmentation.units import threshold_unit


class Zone(NamedTuple):
    """Center and half-width of the neutral zone, and the pivot threshold, in units of reward.

    The baseline is `sequence` or `prompt` if it is computed for each response; `shift` is added to it.
    """

    baseline: float | str
    shift: float
    delta: float | None
    pivot_threshold: float | None


def fitted_zone(rewards: TokenRows, options: SegmentOptions) -> Zone:
    """The options' zone for the smoothed token rewards of the training data."""
    return quantile_zone(rewards, options) if options.threshold_unit == "quantile" else scaled_zone(rewards, options)


def scaled_zone(rewards: TokenRows, options: SegmentOptions) -> Zone:
    """A zone whose widths are multiples of a unit."""
    values = rewards.values.double()
    unit = threshold_unit(rewards, options)
    statistics = {"mean": values.mean(), "median": values.median()}
    baseline = str(options.baseline)
    return Zone(
        baseline=baseline if baseline in ROW_BASELINES else float(statistics.get(baseline, baseline)),
        shift=options.baseline_shift * unit,
        delta=None if options.delta is None else options.delta * unit,
        pivot_threshold=None if options.pivot_threshold is None else options.pivot_threshold * unit,
    )


def quantile_zone(rewards: TokenRows, options: SegmentOptions) -> Zone:
    """A zone between two quantiles of the rewards; the pivot threshold is a quantile of the steps within responses."""
    values = rewards.values.double()
    smallest = float(rounding_error(values))
    pivot_threshold = None
    if options.pivot_threshold is not None:
        steps = values.diff().abs()[rewards.rows[1:] == rewards.rows[:-1]]
        pivot_threshold = quantile_gap(steps, options.pivot_threshold, smallest)
        if pivot_threshold is None:  # equal steps
            pivot_threshold = float(steps.max()) + smallest if len(steps) else smallest
    center, delta = float(str(options.baseline)) + options.baseline_shift, options.delta or 0.0
    low, high = (quantile_gap(values, center + side * delta, smallest) for side in (-1, 1))
    if low is None or high is None:  # equal rewards, which are neutral
        baseline = float(values.mean()) if len(values) else 0.0
        return Zone(baseline, 0.0, None if options.delta is None else smallest, pivot_threshold)
    return Zone((low + high) / 2, 0.0, None if options.delta is None else (high - low) / 2, pivot_threshold)


def quantile_gap(values: Tensor, share: float, smallest: float) -> float | None:
    """Middle of the gap between two values for which the share of values below it is closest to `share`.

    Rewards can be few numbers, such as 1 and -1. A quantile is then one of them, and no token with this reward would be
    above or below it; a gap divides the tokens.

    Args:
        values: `[N]`.
        share: from 0 to 1.
        smallest: values that differ by at most this much are equal.

    Returns:
        `None` if all values are equal.

    Example:
        >>> import torch
        >>> quantile_gap(torch.tensor([1.0, 1.0, -1.0, 1.0, 1.0]), 0.5, smallest=1e-6)
        0.0
        >>> quantile_gap(torch.tensor([3.0, 1.0, 2.0, 4.0]), 0.5, smallest=1e-6)
        2.5
    """
    ordered = values.sort().values
    gaps = (ordered.diff() > smallest).nonzero()[:, 0]
    if not len(gaps):
        return None
    below = gaps[((gaps + 1) / len(values) - share).abs().argmin()]
    return float((ordered[below] + ordered[below + 1]) / 2)
