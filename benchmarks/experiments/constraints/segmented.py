"""Answers cut into segments, for the reader to judge: data and picture."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from benchmarks.experiments.constraints.rules import violation_spans
from benchmarks.experiments.framework.workspace import write_atomically

END = "■"  # in place of the EOS token
COLORS = {1: "#cfe8dc", 0: "#e9ecf0", -1: "#f4d3d8"}
INK, UNDERLINE = "#1f2933", "#b3261e"
COLUMNS, SIZE = 56, 9  # characters per line, few enough for the width of a phone; points
HEADING = 48  # characters per line of a heading, in a proportional font
ADVANCE = 0.602 * SIZE / 72  # width of a character of DejaVu Sans Mono, in inches
LEADING = 1.75 * SIZE / 72  # height of a line, in inches
GAP = 0.15  # between two segments, in characters
KEY = 2.6  # height of the key, in lines


@dataclass(frozen=True)
class SegmentedAnswer:
    """An answer of a preference pair with its segments.

    Args:
        request: the prompt without the constraints.
        side: "chosen" or "rejected".
        tokens: texts of the tokens; the EOS is `END`.
        segments: first token, one past the last, and sign (+1, 0, -1) of every segment.
    """

    request: str
    side: str
    tokens: tuple[str, ...]
    segments: tuple[tuple[int, int, int], ...]

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    def runs(self) -> list[Run]:
        """Pieces of the text that are in one segment, and either in a violation or not.

        Example:
            >>> answer = SegmentedAnswer("Why?", "chosen", ("Sea", ",", " sun"), ((0, 2, 1), (2, 3, -1)))
            >>> [tuple(run) for run in answer.runs()]
            [(0, 3, 1, False, True), (3, 4, 1, True, False), (4, 8, -1, False, True)]
        """
        offsets = [0, *accumulate(map(len, self.tokens))]
        segments = [(offsets[first], offsets[last], sign) for first, last, sign in self.segments]
        bad = violation_spans(self.text)
        edges = sorted({edge for start, end, *_ in (*segments, *bad) for edge in (start, end)})
        found = []
        for start, end in pairwise(edges):
            first, sign = next((first, sign) for first, last, sign in segments if first <= start < last)
            violates = any(first <= start < last for first, last in bad)
            found.append(Run(start, end, sign, violates, opens=start == first))
        return found


class Run(NamedTuple):
    """A piece of a text: character span, sign of its segment, whether it violates a constraint and opens a segment."""

    start: int
    end: int
    sign: int
    violates: bool
    opens: bool


def write_answers(path: Path, answers: Sequence[SegmentedAnswer]) -> None:
    """Write one answer per line of a JSON list."""
    write_atomically(path, "[\n" + ",\n".join(json.dumps(asdict(one), ensure_ascii=False) for one in answers) + "\n]\n")


def read_answers(path: Path) -> list[SegmentedAnswer]:
    return [
        SegmentedAnswer(
            row["request"], row["side"], tuple(row["tokens"]), tuple((a, b, sign) for a, b, sign in row["segments"])
        )
        for row in json.loads(path.read_text(encoding="utf-8"))
    ]


def save_png(answers: Sequence[SegmentedAnswer], path: Path) -> None:
    """Write the picture of answers; hinting would round the widths of the characters to pixels."""
    with rc_context({"text.hinting": "no_hinting"}):
        draw_answers(answers).savefig(path, dpi=150, metadata={"Software": None})


def draw_answers(answers: Sequence[SegmentedAnswer]) -> Figure:
    """Texts on the colors of their segments' signs, with violations underlined."""
    headings = [f"{answer.side}: {answer.request}" for answer in answers]
    count = KEY + sum(
        len(lines(heading, HEADING)) + len(lines(answer.text, COLUMNS)) + 0.6
        for heading, answer in zip(headings, answers, strict=True)
    )
    figure = Figure(figsize=(COLUMNS * ADVANCE, count * LEADING))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, COLUMNS)
    axes.set_ylim(count, 0)
    axes.axis("off")
    draw_key(axes)
    y = KEY
    for heading, answer in zip(headings, answers, strict=True):
        for start, end in lines(heading, HEADING):
            axes.text(0, y + 0.5, heading[start:end].rstrip(), va="center", fontsize=SIZE, fontweight="bold")
            y += 1
        for start, end in lines(answer.text, COLUMNS):
            draw_line(axes, y, answer, start, end)
            y += 1
        y += 0.6
    return figure


def draw_key(axes: Axes) -> None:
    """Key of the colors, the underline and the mark of the end, in two lines."""
    left, right = 0.0, COLUMNS / 2
    for x, y, sign, label in ((left, 0, 1, "positive"), (right, 0, -1, "negative"), (left, 1, 0, "neutral")):
        axes.add_patch(Rectangle((x, y + 0.1), 2, 0.8, facecolor=COLORS[sign], linewidth=0))
        axes.text(x + 2.7, y + 0.5, f"{label} segment", va="center", fontsize=SIZE, color=INK)
    axes.plot([right, right + 2], [1.75, 1.75], color=UNDERLINE, linewidth=1.2)
    axes.text(right + 2.7, 1.5, f"violation    {END} end", va="center", fontsize=SIZE, color=INK)


def draw_line(axes: Axes, y: float, answer: SegmentedAnswer, start: int, end: int) -> None:
    """One line of an answer: characters `start` to `end` at height `y`, without the blank at its end."""
    text = answer.text[start:end].rstrip()
    end = start + len(text)
    for run in answer.runs():
        left, right = max(run.start, start) - start, min(run.end, end) - start
        if left >= right:
            continue
        gap = GAP if run.opens and run.start >= start else 0
        axes.add_patch(
            Rectangle((left + gap, y + 0.05), right - left - gap, 0.9, facecolor=COLORS[run.sign], linewidth=0)
        )
        if run.violates:
            axes.plot([left, right], [y + 0.86, y + 0.86], color=UNDERLINE, linewidth=1.2, solid_capstyle="butt")
    axes.text(
        0,
        y + 0.5,
        text.replace("\n", " "),
        va="center_baseline",
        fontsize=SIZE,
        family="DejaVu Sans Mono",
        color=INK,
        parse_math=False,
    )


def lines(text: str, width: int) -> list[tuple[int, int]]:
    """Character spans of the lines of a text, broken after blanks.

    Example:
        >>> lines("to the sea", 6), lines("sea", 6), lines("seashore", 6)
        ([(0, 7), (7, 10)], [(0, 3)], [(0, 6), (6, 8)])
    """
    return list(_lines(text, width))


def _lines(text: str, width: int) -> Iterator[tuple[int, int]]:
    start = 0
    while len(text) - start > width:
        blank = text.rfind(" ", start, start + width + 1)
        end = start + width if blank <= start else blank + 1
        yield start, end
        start = end
    yield start, len(text)
