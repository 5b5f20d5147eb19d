"""Time of log-probabilities and entropies by share of tokens kept, tokens and vocabulary, from the stored results."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullLocator
from style import HERE, INK, MUTED, OURS, RESULTS, ROOT, color_of, save

from benchmarks.targets import BY_SHARE, BY_TOKENS, BY_VOCABULARY

WORK = re.compile(r"(.+): .+ \[(\d+), (\d+)\](?:, 1 of (\d+) kept)?")


class Point(NamedTuple):
    """Time of one implementation on logits [T, V]; the mask keeps every `divisor`-th row."""

    series: str
    implementation: str
    T: int
    V: int
    divisor: int
    seconds: float


class Panel(NamedTuple):
    """Axis of a series: what grows along it, and what stays."""

    label: str
    x: Callable[[Point], float]
    fixed: str


PANELS = {
    BY_SHARE: Panel("share of tokens kept", lambda point: 1 / point.divisor, "T = {T:,}, V = {V:,}"),
    BY_TOKENS: Panel("tokens T", lambda point: point.T, "V = {V:,}"),
    BY_VOCABULARY: Panel("vocabulary V", lambda point: point.V, "T = {T:,}"),
}


def draw(folder: Path = HERE) -> Path:
    points = points_of(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"])
    if not points:
        raise SystemExit(
            f"{RESULTS.relative_to(ROOT)}: expected rows of the group scaling, got none "
            "(`python -m benchmarks.report --only scaling` measures them)"
        )
    by_series = {name: [point for point in points if point.series == name] for name in PANELS}
    by_series = {name: found for name, found in by_series.items() if found}
    figure, panels = plt.subplots(
        1, len(by_series), figsize=(3 * len(by_series), 3.2), sharey=True, layout="constrained", squeeze=False
    )
    for axes, (name, found) in zip(panels[0], by_series.items(), strict=True):
        draw_panel(axes, PANELS[name], found)
    panels[0, 0].set_ylabel("time in ms")
    handles, names = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, fontsize=9, loc="outside upper center", ncols=len(names))
    return save(figure, "scaling", folder)


def points_of(rows: Sequence[Mapping[str, Any]]) -> list[Point]:
    """Measured points of the group, in the order of the rows.

    Raises:
        ValueError: a work names no series, or no sizes.
    """
    points = []
    for row in rows:
        if row["group"] != "scaling" or "seconds" not in row:
            continue
        found = WORK.fullmatch(row["work"])
        if found is None or found[1] not in PANELS:
            raise ValueError(f"work: expected one of {', '.join(PANELS)} with its sizes, got {row['work']!r}")
        sizes = int(found[2]), int(found[3]), int(found[4] or 1)
        points.append(Point(found[1], row["implementation"], *sizes, row["seconds"]))
    return points


def draw_panel(axes: Axes, panel: Panel, points: Sequence[Point]) -> None:
    """A line per implementation, on two logarithmic axes."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    for implementation in dict.fromkeys(point.implementation for point in points):
        line = sorted(
            (panel.x(point), 1e3 * point.seconds) for point in points if point.implementation == implementation
        )
        is_ours = implementation == OURS
        axes.plot(
            *zip(*line, strict=True),
            color=color_of(implementation),
            marker="o",
            markersize=6 if is_ours else 4,
            linewidth=2 if is_ours else 1.3,
            zorder=3 if is_ours else 2,
            label=implementation,
        )
    axes.margins(x=0.1)
    axes.set_xlabel(panel.label)
    axes.set_xticks(sorted({panel.x(point) for point in points}))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"1/{round(1 / x)}" if x < 1 else f"{x:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.tick_params(labelsize=8.5)
    axes.grid(color=MUTED, alpha=0.25, linewidth=0.8)
    axes.set_title(panel.fixed.format(T=points[0].T, V=points[0].V), loc="left", fontsize=10, color=INK)


if __name__ == "__main__":
    draw()
