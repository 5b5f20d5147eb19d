"""The plots: accuracy of every method, and one per sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.experiments.tasks import CONDITIONS

COLOURS = dict(zip(CONDITIONS, ("#2456a6", "#c2560a", "#14805e"), strict=True))
GREY = "#7b8494"


def write_plots(results: Mapping[str, Any], folder: Path) -> list[tuple[str, Path]]:
    """Write every plot as a PNG; returns titles and files."""
    folder.mkdir(parents=True, exist_ok=True)
    references = {entry["method"]: entry for entry in results["methods"] if entry["condition"] == "all"}
    plots = [("Parts of held-out answers that are right", methods_plot(results["methods"]), "methods")]
    for sweep in dict.fromkeys(entry["sweep"] for entry in results["sweeps"]):
        points = [entry for entry in results["sweeps"] if entry["sweep"] == sweep]
        plots.append((f"asr-dpo: {sweep}", sweep_plot(points, references), sweep))
    written = []
    for title, figure, name in plots:
        path = folder / f"{file_name(name)}.png"
        figure.savefig(path, dpi=120, metadata={"Software": None})
        written.append((title, path))
    return written


def file_name(name: str) -> str:
    """
    Example:
        >>> file_name("delta, Schmitt trigger")
        'delta-schmitt-trigger'
    """
    return name.lower().replace(",", "").replace(" ", "-")


def methods_plot(entries: Sequence[Mapping[str, Any]]) -> Figure:
    methods = list(dict.fromkeys(entry["method"] for entry in entries))
    figure = Figure(figsize=(8, 1.2 + 0.45 * len(methods)), layout="constrained")
    axes = figure.subplots()
    for offset, condition in zip((-0.2, 0, 0.2), CONDITIONS, strict=True):
        found = [entry for entry in entries if entry["condition"] == condition]
        places = [methods.index(entry["method"]) + offset for entry in found]
        draw(axes, places, found, condition, horizontal=True)
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set_xlabel("parts right, %")
    axes.grid(axis="x", linewidth=0.5, alpha=0.5)
    axes.legend(title="trained on", fontsize=8)
    return figure


def sweep_plot(entries: Sequence[Mapping[str, Any]], references: Mapping[str, Mapping[str, Any]]) -> Figure:
    labels = list(dict.fromkeys(entry["label"] for entry in entries))
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    for condition in dict.fromkeys(entry["condition"] for entry in entries):
        found = [entry for entry in entries if entry["condition"] == condition]
        draw(axes, [labels.index(entry["label"]) for entry in found], found, condition, line=True)
    for name, dash in (("dpo", "--"), ("no training", ":")):
        level = 100 * references[name]["mean"]["parts_right"]["mean"]
        axes.axhline(level, color=GREY, linestyle=dash, linewidth=1, label=f"{name}, all")
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylabel("parts right, %")
    axes.grid(axis="y", linewidth=0.5, alpha=0.5)
    axes.legend(fontsize=8)
    return figure


def draw(
    axes: Axes,
    places: Sequence[float],
    entries: Sequence[Mapping[str, Any]],
    condition: str,
    *,
    horizontal: bool = False,
    line: bool = False,
) -> None:
    """Means with their intervals, in percent."""
    means = [100 * entry["mean"]["parts_right"]["mean"] for entry in entries]
    widths = [100 * (entry["mean"]["parts_right"]["half_width"] or 0.0) for entry in entries]
    where: dict[str, Any] = (
        {"x": means, "y": places, "xerr": widths} if horizontal else {"x": places, "y": means, "yerr": widths}
    )
    axes.errorbar(
        **where, color=COLOURS[condition], fmt="o-" if line else "o", capsize=3, markersize=4, label=condition
    )
