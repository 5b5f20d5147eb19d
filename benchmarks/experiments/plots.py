"""Plots: accuracy of every method, and one plot per sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks.experiments.tasks import CONDITIONS

COLORS = dict(zip(CONDITIONS, ("#2456a6", "#c2560a", "#14805e"), strict=True))
MARKERS, LINES = ("o", "s"), ("-", ":")
UNITS = dict.fromkeys(("delta", "baseline", "pivots only", "noise"), "in standard deviations of the token rewards")
SIZES: dict[str, Any] = {"capsize": 3, "markersize": 4}


def write_plots(results: Mapping[str, Any], folder: Path) -> list[tuple[str, Path]]:
    """Write every plot as a PNG; returns titles and files."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = [("Parts of held-out answers that are right", methods_plot(results["methods"]), "methods")]
    by_subject: dict[str, list[Mapping[str, Any]]] = {}
    for entry in results["sweeps"]:
        by_subject.setdefault(subject_and_series(entry["sweep"])[0], []).append(entry)
    for subject, entries in by_subject.items():
        plots.append((f"asr-dpo: {subject}", sweep_plot(entries, results["methods"]), subject))
    written = []
    for title, figure, name in plots:
        path = folder / f"{name.replace(' ', '-')}.png"
        figure.savefig(path, dpi=110, metadata={"Software": None})
        written.append((title, path))
    return written


def subject_and_series(sweep: str) -> tuple[str, str]:
    """Subject and series of a sweep; sweeps of one subject share a plot.

    Example:
        >>> subject_and_series("delta, Schmitt trigger"), subject_and_series("noise")
        (('delta', 'Schmitt trigger'), ('noise', ''))
    """
    subject, _, series = sweep.partition(", ")
    return subject, series


def methods_plot(entries: Sequence[Mapping[str, Any]]) -> Figure:
    methods = list(dict.fromkeys(entry["method"] for entry in entries))
    figure = Figure(figsize=(8, 1.4 + 0.42 * len(methods)), layout="constrained")
    axes = figure.subplots()
    for offset, condition in zip((-0.2, 0, 0.2), CONDITIONS, strict=True):
        found = [entry for entry in entries if entry["condition"] == condition]
        means, widths = percentages(found)
        places = [methods.index(entry["method"]) + offset for entry in found]
        axes.errorbar(means, places, xerr=widths, color=COLORS[condition], fmt="o", **SIZES, label=condition)
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("parts right, %")
    axes.grid(axis="x", linewidth=0.5, alpha=0.5)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    return figure


def sweep_plot(entries: Sequence[Mapping[str, Any]], methods: Sequence[Mapping[str, Any]]) -> Figure:
    """One line per condition and series; a dashed line marks dpo in the same condition."""
    labels = list(dict.fromkeys(entry["label"] for entry in entries))
    ordered = all(map(is_number, labels))
    if ordered:
        labels.sort(key=float)
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    lines: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in entries:
        lines.setdefault((entry["condition"], subject_and_series(entry["sweep"])[1]), []).append(entry)
    series = list(dict.fromkeys(name for _, name in lines))
    for (condition, name), found in lines.items():
        means, widths = percentages(found)
        places = [labels.index(entry["label"]) + 0.06 * series.index(name) for entry in found]
        axes.errorbar(
            places,
            means,
            yerr=widths,
            color=COLORS[condition],
            marker=MARKERS[series.index(name)],
            linestyle=LINES[series.index(name)] if ordered else "none",
            **SIZES,
            label=", ".join(filter(None, [condition, name])),
        )
    for entry in methods:
        if entry["method"] == "dpo" and entry["condition"] in {condition for condition, _ in lines}:
            level, condition = 100 * entry["mean"]["parts_right"]["mean"], entry["condition"]
            axes.axhline(level, color=COLORS[condition], linestyle="--", linewidth=1, label=f"{condition}, dpo")
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    subject = subject_and_series(entries[0]["sweep"])[0]
    axes.set_xlabel(", ".join(filter(None, [subject, UNITS.get(subject)])))
    axes.set_ylim(0, 100)
    axes.set_ylabel("parts right, %")
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    figure.legend(loc="outside upper center", ncols=2, fontsize=8)
    return figure


def percentages(entries: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Means and half widths of the intervals, in percent."""
    found = [entry["mean"]["parts_right"] for entry in entries]
    return [100 * one["mean"] for one in found], [100 * (one["half_width"] or 0.0) for one in found]


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
