"""Questions about the thresholds of segmentation, for any task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.experiments.framework.experiment import Candidate, Method, Question

# Quantiles of the token rewards: a token below the first is negative, one above the second is positive.
LIMITS = ((0.1, 0.2), (0.2, 0.3), (0.2, 0.4), (0.2, 0.5), (0.3, 0.4), (0.45, 0.55))
FEW_LIMITS = ((0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.45, 0.55))
TRIGGERS = {"Schmitt trigger": True, "plain threshold": False}


def limits(method: Method, pairs: Sequence[tuple[float, float]] = LIMITS, **question: Any) -> Question:
    """Both triggers at several limits."""
    candidates = [
        Candidate(f"{low:g}, {high:g}", method.with_options(**between(low, high), hold=hold), series=name)
        for name, hold in TRIGGERS.items()
        for low, high in pairs
    ]
    return Question("limits of the trigger", method, candidates, unit="quantiles of the token rewards", **question)


def between(low: float, high: float) -> dict[str, Any]:
    """Options of a trigger with these limits.

    Example:
        >>> between(0.2, 0.5)
        {'baseline': '0.35', 'delta': 0.15}
    """
    return {"baseline": f"{(low + high) / 2:g}", "delta": round((high - low) / 2, 6)}


def units(method: Method, words: Sequence[str], **question: Any) -> Question:
    """Limits in quantiles, half a standard deviation around several baselines, and half the noise around the mean."""
    deviations = [
        Candidate(f"{baseline} ± 0.5 {unit}", method.with_options(threshold_unit=unit, baseline=baseline, delta=0.5))
        for unit, baseline in [*(("std", word) for word in words), ("noise", "mean")]
    ]
    lower = {"threshold_unit": "std", "baseline": "mean", "baseline_shift": -0.5, "delta": 0.5}
    return Question(
        "unit",
        method,
        [Candidate("quantiles", method), *deviations, Candidate("mean - 0.5 ± 0.5 std", method.with_options(**lower))],
        **question,
    )
