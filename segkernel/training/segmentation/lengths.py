"""Lengths of segments: many of a token or two are often noise."""

import logging

import torch
from torch import Tensor

from segkernel.types import Segments

logger = logging.getLogger(__name__)

SHORT = 3  # tokens


def median_length(segments: Segments, rows: Tensor) -> float:
    """Median length of packed segments, in tokens; of two middle values the smaller counts.

    A response of one segment is not cut, so its segment is no short one, however long: it counts as infinite.

    Args:
        segments: of packed responses.
        rows: `[N]`, the response of every token.

    Example:
        >>> import segkernel
        >>> rewards, rows = torch.tensor([1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0]), torch.tensor([0, 0, 0, 0, 0, 0, 1])
        >>> median_length(segkernel.segment(rewards, delta=0.5, cu_seqlens=torch.tensor([0, 6, 7])), rows)
        1.0
    """
    lengths = torch.where(segments.counts[rows] > 1, segments.lengths.double(), torch.inf)
    return float(lengths[segments.lengths > 0].median())


def warn_of_short_segments(segments: Segments, rows: Tensor) -> bool:
    """Log a warning if the median length of the segments is under 3 tokens, and return whether it is."""
    median = median_length(segments, rows)
    if median >= SHORT:
        return False
    logger.warning(
        "segments: half of them have at most %.0f token%s. They follow the noise of the token rewards, unless the "
        "parts to be judged are that short, such as words. For longer ones lower baseline toward the share of tokens "
        "that are wrong, raise smoothing, min_segment_length or delta, set hold, or try token_rewards=prefix",
        median,
        "" if median == 1 else "s",
    )
    return True
