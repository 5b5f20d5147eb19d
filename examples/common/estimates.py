"""Means over independent runs with 95 % t-intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats


class Estimate(NamedTuple):
    """Mean over runs and half the width of its 95 % t-interval (`None` for a single run)."""

    mean: float
    half_width: float | None

    @property
    def sign(self) -> int:
        """+1 or -1 where the whole interval is above or below 0, else 0."""
        if self.half_width is None or abs(self.mean) <= self.half_width:
            return 0
        return 1 if self.mean > 0 else -1

    def percent(self) -> str:
        """Mean and half width in percent.

        Example:
            >>> Estimate(0.5, 0.0312).percent(), Estimate(0.5, None).percent()
            ('50.0 ± 3.1', '50.0')
        """
        return f"{100 * self.mean:.1f}" + ("" if self.half_width is None else f" ± {100 * self.half_width:.1f}")


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of one value per run, with its interval.

    Example:
        >>> center, half_width = estimate([1.0, 2.0, 3.0])
        >>> center, round(half_width, 3)
        (2.0, 2.484)
    """
    center = math.fsum(values) / len(values)
    if len(values) < 2:
        return Estimate(center, None)
    if min(values) == max(values):  # scipy warns of precision loss in the variance
        return Estimate(center, 0.0)
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    return Estimate(center, float(interval.high - interval.low) / 2)


def difference(values: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """Estimate of the paired difference, run by run: variance that both share cancels.

    Example:
        >>> difference([0.5, 0.75], [0.25, 0.5])
        Estimate(mean=0.25, half_width=0.0)
    """
    return estimate([value - other for value, other in zip(values, baseline, strict=True)])
