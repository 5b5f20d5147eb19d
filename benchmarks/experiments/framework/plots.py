"""Plots: the headline of every method, and one plot per question."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.experiments.framework.columns import Column
from benchmarks.experiments.framework.tables import columns_of
from benchmarks.machine import slug

COLORS = ("#2456a6", "#c2560a", "#14805e", "#8a4fb0")
MARKERS, LINES = ("o", "s", "^", "D"), ("-", ":", "-.", "--")
SIZES: dict[str, Any] = {"capsize": 3, "markersize": 4}
PLOTS_PER_ROW = 3
METHODS = "methods"  # stem of the plot of every method

Results = Mapping[str, Any]
Entry = Mapping[str, Any]


def write_plots(results: Results, folder: Path) -> list[tuple[str, Path]]:
    """Write every plot as a PNG; returns titles and files."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = [(methods_title(results), methods_plot(results), METHODS)]
    for question in dict.fromkeys(entry["question"] for entry in results["candidates"]):
        plots.append((question, question_plot(results, question), slug(question)))
    written = []
    for title, figure, name in plots:
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=110, metadata={"Software": None}, bbox_inches="tight")
        written.append((title, path))
    return written


def methods_title(results: Results) -> str:
    """Title of the plot of every method."""
    return f"{columns_of(results)[0].label}, every method"


def colors(results: Results) -> dict[str, str]:
    """Color of every condition."""
    return {name: COLORS[index % len(COLORS)] for index, name in enumerate(results["conditions"])}


def methods_plot(results: Results) -> Figure:
    """One line of points per method, one color per condition that was measured."""
    entries, headline = results["methods"], columns_of(results)[0]
    methods = list(dict.fromkeys(entry["method"] for entry in entries))
    figure = Figure(figsize=(8, 1.4 + 0.42 * len(methods)), layout="constrained")
    axes = figure.subplots()
    measured = dict.fromkeys(entry["condition"] for entry in entries)
    conditions = {name: color for name, color in colors(results).items() if name in measured}
    for index, (condition, color) in enumerate(conditions.items()):
        offset = 0.2 * (index - (len(conditions) - 1) / 2)
        found = [entry for entry in entries if entry["condition"] == condition]
        means, widths = values(found, headline)
        places = [methods.index(entry["method"]) + offset for entry in found]
        axes.errorbar(means, places, xerr=widths, color=color, fmt="o", **SIZES, label=condition)
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set_xlabel(axis_label(headline))
    if headline.unit == "percent":
        axes.set_xlim(0, 100)
    axes.grid(axis="x", linewidth=0.5, alpha=0.5)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    return figure


def question_plot(results: Results, question: str) -> Figure:
    """One plot per method that the question is about."""
    entries = [entry for entry in results["candidates"] if entry["question"] == question]
    methods = list(dict.fromkeys(entry["of"] for entry in entries))
    across = min(PLOTS_PER_ROW, len(methods))
    down = math.ceil(len(methods) / across)
    figure = Figure(figsize=(6.4 if across == 1 else 4 * across, 3.8 * down), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for method, axes in zip(methods, grid, strict=False):
        draw_candidates(axes, results, [entry for entry in entries if entry["of"] == method])
        axes.set_title(method, fontsize=9)
    for axes in grid[len(methods) :]:
        axes.remove()
    # Methods may have different series.
    named = {
        label: handle
        for axes in grid[: len(methods)]
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(named.values(), named, loc="outside upper center", ncols=2, fontsize=8)
    return figure


def draw_candidates(axes: Axes, results: Results, entries: Sequence[Entry]) -> None:
    """One line per condition and series; a dashed line marks the baseline in the same condition."""
    headline = columns_of(results)[0]
    labels = list(dict.fromkeys(entry["label"] for entry in entries))
    ordered = all(map(is_number, labels))
    if ordered:
        labels.sort(key=float)
    lines: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        lines.setdefault((entry["condition"], entry["series"]), []).append(entry)
    series = list(dict.fromkeys(name for _, name in lines))
    color = colors(results)
    for (condition, name), found in lines.items():
        means, widths = values(found, headline)
        index = series.index(name)
        axes.errorbar(
            [labels.index(entry["label"]) + 0.06 * index for entry in found],
            means,
            yerr=widths,
            color=color[condition],
            marker=MARKERS[index % len(MARKERS)],
            linestyle=LINES[index % len(LINES)] if ordered else "none",
            **SIZES,
            label=", ".join(filter(None, [condition, name])),
        )
    for entry in results["methods"]:
        if entry["method"] == entries[0]["baseline"] and entry["condition"] in {condition for condition, _ in lines}:
            (level,), _ = values([entry], headline)
            label = f"{entry['condition']}, baseline"
            axes.axhline(level, color=color[entry["condition"]], linestyle="--", linewidth=1, label=label)
    slanted: dict[str, Any] = {} if ordered else {"rotation": 25, "ha": "right"}
    axes.set_xticks(range(len(labels)), labels, fontsize=8, **slanted)
    axes.set_xlabel(", ".join(filter(None, [entries[0]["question"], entries[0]["unit"]])))
    axes.set_ylabel(axis_label(headline))
    if headline.unit == "percent":
        axes.set_ylim(0, 100)
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)


def axis_label(column: Column) -> str:
    return f"{column.label}, %" if column.unit == "percent" else column.label


def values(entries: Sequence[Entry], column: Column) -> tuple[list[float], list[float]]:
    """Means and half widths of the intervals, in the column's unit."""
    scale = 100 if column.unit == "percent" else 1
    found = [entry["mean"][column.measure] for entry in entries]
    return [scale * one["mean"] for one in found], [scale * (one["half_width"] or 0.0) for one in found]


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
