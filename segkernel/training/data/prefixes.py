"""Common prefixes of texts, token ids and messages."""

from collections.abc import Sequence
from typing import Any


def common_prefix_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Number of leading items that two sequences have in common.

    Example:
        >>> common_prefix_length("abcd", "abx")
        2
    """
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))
