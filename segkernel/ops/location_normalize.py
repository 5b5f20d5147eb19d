"""Location-aware normalization of segment rewards."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

from segkernel import _tensors, _validate

# Residuals beyond this many standard errors enter the loss linearly: 95 % efficient on normal data (Huber, 1964).
_HUBER_KNEE = 1.345


def location_normalize(
    segment_rewards: Tensor,
    counts: Tensor,
    *,
    mean: tuple[float, float],
    std: tuple[float, float],
    min_std: float = 1e-6,
) -> Tensor:
    """Normalizes each segment's reward by the mean and standard deviation of rewards at its position in the response.

    Segment `k` (from 0) of `n` ends at `p = (k + 1) / n`. With `mean = (w_m, b_m)` and `std = (w_s, b_s)` it becomes
    `(R - (w_m log p + b_m)) / max(w_s log p + b_s, min_std)`. Source: the location-aware normalizer of Segment-level
    RLHF, arXiv 2501.02790, sec. 3. Differentiable with respect to `segment_rewards`.

    Args:
        segment_rewards: `[B, S]`, as `segment` returns them; float64, float32, bfloat16 or float16.
        counts: number of segments per row, integer `[B]`; those past `S` count in `n`.
        mean, std: slope and intercept over `log p`, in units of reward; from `fit_location_normalizer`.
        min_std: `> 0`, lower bound of the standard deviation to divide by.

    Returns:
        `[B, S]`, float32 (float64 for float64 rewards); 0 past `counts`.

    Raises:
        TypeError: a dtype or type that is not one of the above.
        ValueError: shapes or devices that don't match, `mean` or `std` not two finite numbers, `min_std <= 0`.

    Example:
        >>> import torch, segkernel
        >>> rewards, counts = torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([2])
        >>> segkernel.location_normalize(rewards, counts, mean=(0.0, 1.0), std=(0.0, 2.0))
        tensor([[0., 1., 0.]])
    """
    _tensors.segment_values("segment_rewards", segment_rewards, counts)
    mean_slope, mean_intercept = _validate.slope_and_intercept("mean", mean)
    std_slope, std_intercept = _validate.slope_and_intercept("std", std)
    _validate.positive("min_std", min_std)

    rewards = segment_rewards.to(_tensors.compute_dtype(segment_rewards))
    present, log_p = _log_positions(rewards, counts)
    location_mean = mean_slope * log_p + mean_intercept
    location_std = (std_slope * log_p + std_intercept).clamp(min=min_std)
    return ((rewards - location_mean) / location_std).masked_fill(~present, 0.0)


def fit_location_normalizer(
    segment_rewards: Tensor, counts: Tensor, *, bins: int = 25
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Fits the `mean` and `std` of `location_normalize` to the segment rewards of many responses.

    Rewards are grouped by the position `p = (k + 1) / n` of their segment; the mean and the standard deviation of
    every group are regressed on `log p` with Huber's loss in units of the group's standard error, which bounds the
    influence of outlying groups (Segment-level RLHF, arXiv 2501.02790). Runs on the host.

    Args:
        segment_rewards: `[B, S]`, as `segment` returns them; values past `counts` are not read.
        counts: number of segments per row, integer `[B]`.
        bins: number of groups of equal width in `p`; groups with fewer than two rewards are left out.

    Returns:
        `(mean, std)`, each `(slope, intercept)` over `log p`.

    Raises:
        TypeError, ValueError: as `location_normalize`; rewards that are not finite; fewer than two groups.

    Example:
        >>> import torch, segkernel
        >>> rewards = torch.tensor([[0.0, 2.0], [2.0, 4.0]])
        >>> mean, std = segkernel.fit_location_normalizer(rewards, torch.tensor([2, 2]))
        >>> [round(value, 2) for value in (*mean, *std)]  # means 1 and 3 at p = 1/2 and 1, no trend in the spread
        [2.89, 3.0, 0.0, 1.41]
    """
    _tensors.segment_values("segment_rewards", segment_rewards, counts)
    _validate.integer("bins", bins, at_least=2)
    present, log_positions = _log_positions(segment_rewards.detach().double(), counts)
    rewards = segment_rewards.detach()[present].double().cpu().numpy()
    log_p = log_positions[present].cpu().numpy()
    if not np.isfinite(rewards).all():
        raise ValueError("segment_rewards: expected finite rewards, got NaN or infinity")

    # Positions are fractions: one at the end of a bin can exceed it by a rounding error.
    group = np.ceil(np.exp(log_p) * bins - 1e-9).astype(int) - 1
    sizes = np.bincount(group, minlength=bins)
    used = sizes >= 2
    if used.sum() < 2:
        raise ValueError(
            f"segment_rewards: expected at least two rewards at each of two positions, got {rewards.size} rewards"
            f" at {np.count_nonzero(sizes)} positions"
        )

    def group_means(values: np.ndarray) -> np.ndarray:
        return np.bincount(group, weights=values, minlength=bins) / np.maximum(sizes, 1)

    means = group_means(rewards)
    # Two passes: mean square minus squared mean would give equal rewards a spread of rounding errors.
    variances = group_means((rewards - means[group]) ** 2) * sizes / np.maximum(sizes - 1, 1)
    x, center, spread, size = (values[used] for values in (group_means(log_p), means, np.sqrt(variances), sizes))
    typical = float(np.median(spread)) or 1.0
    return (
        _huber_line(x, center, typical / np.sqrt(size)),
        _huber_line(x, spread, typical / np.sqrt(2 * size)),
    )


def _huber_line(x: np.ndarray, y: np.ndarray, standard_error: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of `y` over `x`."""
    fit = least_squares(
        lambda line: (line[0] * x + line[1] - y) / standard_error,
        x0=(0.0, float(np.median(y))),
        loss="huber",
        f_scale=_HUBER_KNEE,
    )
    return float(fit.x[0]), float(fit.x[1])


def _log_positions(segment_rewards: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each segment exists, and its `log p`: both `[B, S]`, the latter in the dtype of `segment_rewards`."""
    index = torch.arange(segment_rewards.shape[1], device=counts.device)
    n = counts.unsqueeze(1)  # [B, 1]
    present = index < n
    p = (index + 1).to(segment_rewards.dtype) / n.clamp(min=1)
    return present, p.clamp(max=1).log()
