"""One sampled response as the report shows it: colored by its rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segkernel.training.report.text import visible_text


@dataclass(frozen=True)
class Sample:
    """One response of `T` tokens with its score and its token rewards.

    Args:
        prompt: the text before the response.
        label: role of the response: "best", "worst", "accepted", ...
        tokens: the text of every token, `T` long.
        token_rewards: the reward of every token; NaN is legal.
        score: the reward of the whole response.
        kept: whether the loss reads the token; default: all of them.
        advantages: the advantage of every token, which colors it in place of its reward.

    Raises:
        ValueError: lists differ in length.
    """

    prompt: str
    label: str
    tokens: list[str]
    token_rewards: list[float]
    score: float
    kept: list[bool] | None = None
    advantages: list[float] | None = None

    def __post_init__(self) -> None:
        for name in ("token_rewards", "kept", "advantages"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.tokens):
                raise ValueError(f"{name}: expected one value per token ({len(self.tokens)}), got {len(values)}")

    @property
    def colored_by(self) -> str:
        return "reward" if self.advantages is None else "advantage"

    def columns(self) -> list[dict[str, Any]]:
        """Template values per token: text, sign, strength of the color in percent, CSS class, tooltip.

        The token with the largest absolute value has full strength.

        Example:
            >>> sample = Sample("2+2=", "best", ["4", ";"], [1.0, -0.25], 0.75)
            >>> [(c["sign"], c["strength"]) for c in sample.columns()]
            [('plus', 100), ('minus', 25)]
        """
        values = self.token_rewards if self.advantages is None else self.advantages
        largest = max((abs(value) for value in values if math.isfinite(value)), default=0.0) or 1.0
        columns = []
        for t, (token, value) in enumerate(zip(self.tokens, values, strict=True)):
            kept = self.kept is None or self.kept[t]
            known = not math.isnan(value)
            columns.append(
                {
                    "text": visible_text(token),
                    "breaks_before": token.startswith("\n"),
                    "breaks_after": "\n" in token and not token.startswith("\n"),
                    "sign": "neutral" if not known or value == 0 else "plus" if value > 0 else "minus",
                    "strength": round(100 * min(abs(value), largest) / largest) if known else 0,
                    "kept": kept,
                    "title": self._title(t, kept),
                }
            )
        return columns

    def _title(self, t: int, kept: bool) -> str:
        advantage = "" if self.advantages is None else f", advantage {self.advantages[t]:.3g}"
        masked = "" if self.kept is None else ", trained on" if kept else ", masked out"
        return f"token {t}, reward {self.token_rewards[t]:.3g}{advantage}{masked}"


def extremes(scores: Sequence[float], count: int) -> list[tuple[str, int]]:
    """Labels and rows of the `count` responses at the ends of the order of scores: the best ones, then the worst.

    Responses without a finite score are left out.

    Example:
        >>> extremes([0.5, float("nan"), 2.0, -1.0, 0.0], 3)
        [('best', 2), ('best', 0), ('worst', 3)]
    """
    order = sorted((row for row, score in enumerate(scores) if math.isfinite(score)), key=lambda row: -scores[row])
    best = order[: -(-min(count, len(order)) // 2)]
    worst = order[len(best) :][::-1][: count - len(best)]
    return [*(("best", row) for row in best), *(("worst", row) for row in worst)]
