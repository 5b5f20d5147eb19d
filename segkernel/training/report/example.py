"""One response as the report shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from segkernel.types import Segments


@dataclass(frozen=True)
class Example:
    """One response of `T` tokens, with its rewards, its segments and its loss mask.

    Args:
        prompt: the text before the response.
        label: role of the response in its data: "chosen", "rejected", ...
        tokens: the text of every token, `T` long.
        token_rewards: the reward of every token; NaN is legal.
        ids: the 0-based segment of every token, never decreasing.
        signs: the sign of every segment: +1, 0 or -1.
        kept: whether the loss mask keeps the token.
        baseline, low, high: thresholds of the trigger in units of reward, drawn if given.
        pivot_threshold: jump between consecutive rewards that starts a segment, shown if given.

    Raises:
        ValueError: lists differ in length, ids decrease or lack a sign, or a sign is not -1, 0 or +1.
    """

    prompt: str
    label: str
    tokens: list[str]
    token_rewards: list[float]
    ids: list[int]
    signs: list[int]
    kept: list[bool]
    baseline: float | None = None
    low: float | None = None
    high: float | None = None
    pivot_threshold: float | None = None

    def __post_init__(self) -> None:
        for name in ("token_rewards", "ids", "kept"):
            if len(getattr(self, name)) != len(self.tokens):
                raise ValueError(
                    f"{name}: expected one value per token ({len(self.tokens)}), got {len(getattr(self, name))}"
                )
        if self.ids and (self.ids[0] < 0 or self.ids[-1] >= len(self.signs)):
            raise ValueError(f"ids: expected values in [0, {len(self.signs)}), one sign each, got {self.ids}")
        if any(later < earlier for earlier, later in pairwise(self.ids)):
            raise ValueError(f"ids: expected values that never decrease, got {self.ids}")
        if not set(self.signs) <= {-1, 0, 1}:
            raise ValueError(f"signs: expected -1, 0 or +1, got {self.signs}")

    def spans(self) -> list[tuple[int, int, int]]:
        """`(first token, one past the last, sign)` of every segment.

        Example:
            >>> Example("2+2=", "chosen", ["4", ";", "5"], [1.0, 0.9, -1.0], [0, 0, 1], [1, -1], [True] * 3).spans()
            [(0, 2, 1), (2, 3, -1)]
        """
        starts = [t for t, k in enumerate(self.ids) if t == 0 or k != self.ids[t - 1]]
        return [(a, b, self.signs[self.ids[a]]) for a, b in pairwise([*starts, len(self.ids)])]


def example_from_segments(
    prompt: str,
    label: str,
    tokens: Sequence[str],
    token_rewards: Sequence[float],
    segments: Segments,
    *,
    row: int = 0,
    baseline: float | None = None,
    delta: float | None = None,
    pivot_threshold: float | None = None,
) -> Example:
    """The example of one row of `segkernel.segment`'s padded result.

    Args:
        prompt, label, tokens, token_rewards: the response, its `T'` valid tokens only.
        segments: `[B, T]` result; the valid positions of `row` are those with `ids >= 0`, `T'` of them. Without a
            loss mask (no `sequence_sign`) every token counts as kept.
        row: which row of it.
        baseline, delta, pivot_threshold: the arguments that `segment` was called with.

    Raises:
        ValueError: the numbers of tokens and valid positions differ, or `max_segments` dropped segments.
    """
    valid = segments.ids[row] >= 0
    ids = segments.ids[row][valid].tolist()
    if len(ids) != len(tokens):
        raise ValueError(f"tokens: expected {len(ids)}, one per valid position of row {row}, got {len(tokens)}")
    count = int(segments.counts[row])
    signs = segments.signs[row, :count].tolist()
    if len(signs) != count:
        raise ValueError(f"segments: expected all {count} segments of row {row}, got {len(signs)} (max_segments)")
    kept = [True] * len(ids) if segments.mask is None else segments.mask[row][valid].tolist()
    low, high = (None, None) if baseline is None or delta is None else (baseline - delta, baseline + delta)
    return Example(
        prompt, label, list(tokens), list(token_rewards), ids, signs, kept, baseline, low, high, pivot_threshold
    )
