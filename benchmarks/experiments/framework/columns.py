"""Columns of the tables: which measure is shown, and in which unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from examples.common.estimates import Estimate

ARROWS = {1: " ↑", -1: " ↓", 0: ""}


@dataclass(frozen=True)
class Column:
    """A measure of a result.

    Args:
        label: heading.
        measure: its name in the result. A method without this measure has an empty cell.
        unit: a share is shown in percent, any other scalar as it is.
        digits: digits after the point.
        compact: whether the comparison of the methods has it in every condition, next to the headline.
        package: optional package that takes the measure. Without it the column is empty.
    """

    label: str
    measure: str
    unit: Literal["percent", "number"] = "percent"
    digits: int = 1
    compact: bool = False
    package: str = ""

    def text(self, found: Estimate) -> str:
        """Mean and half width of the interval.

        Example:
            >>> Column("right", "right").text(Estimate(0.5, 0.0312))
            '50.0 ± 3.1'
            >>> Column("seconds", "seconds", "number", digits=0).text(Estimate(12.3, None))
            '12'
        """
        return self._text(found, "")

    def difference(self, found: Estimate) -> str:
        """A difference with its sign, and an arrow where its interval excludes 0.

        Example:
            >>> Column("right", "right").difference(Estimate(0.5, 0.0312))
            '+50.0 ± 3.1 ↑'
        """
        return self._text(found, "+") + ARROWS[found.sign]

    def _text(self, found: Estimate, sign: str) -> str:
        values = [found.mean] if found.half_width is None else [found.mean, found.half_width]
        scale = 100 if self.unit == "percent" else 1
        texts = [f"{scale * value:{flag}.{self.digits}f}" for value, flag in zip(values, (sign, ""), strict=False)]
        return " ± ".join(texts)
