"""Shared look of the pictures, and how they are written: the same bytes at every run."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))  # examples are not installed

INK = "#1f2933"
MUTED = "#8a94a0"
MASKED = "#e9ecf0"
KEPT = "#2f9e6e"
POSITIVE, NEGATIVE, NEUTRAL = "#2f9e6e", "#d1495b", "#aab2bd"
SEGMENTS = ("#3d6fb6", "#e0912f")

RESULTS = ROOT / "benchmarks" / "results" / "amd-epyc-2-cores-avx512.json"  # benchmarks of the pictures
OURS = "segkernel"
# Colors of implementations, by the beginning of their name.
COLORS = {
    OURS: KEPT,
    "TRL": "#d1495b",
    "torch.compile": "#e0912f",
    "vectorized torch": "#e0912f",
    "eager torch": "#3d6fb6",
    "materialized logits": "#3d6fb6",
    "loop over": MUTED,
    "bare matrix products": "white",
}
OTHERS = "#8b5fbf"

mpl.rcParams.update(
    {
        "svg.hashsalt": "segkernel",
        "svg.fonttype": "path",
        "font.family": "DejaVu Sans",
        "font.size": 10.5,
        "text.color": INK,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
    }
)


def color_of(implementation: str) -> str:
    """Color of an implementation in the pictures of the benchmarks."""
    return next((color for start, color in COLORS.items() if implementation.startswith(start)), OTHERS)


def save(figure: Figure, name: str, folder: Path = HERE) -> Path:
    """Writes `<name>.svg` without a date, so that unchanged data give an unchanged file."""
    path = folder / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight", pad_inches=0.08)
    plt.close(figure)
    # Matplotlib ends some lines with a blank.
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")
    return path


def cell(
    axes: Axes,
    x: float,
    y: float,
    text: str = "",
    *,
    color: str = "white",
    ink: str = INK,
    edge: str = "white",
    hatch: str | None = None,
    size: float = 9.5,
) -> None:
    """Unit square with its lower left corner at `(x, y)` and a centered text."""
    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=color, edgecolor=edge, linewidth=1.5, hatch=hatch))
    if text:
        axes.text(x + 0.5, y + 0.48, text, ha="center", va="center", color=ink, fontsize=size)


def blank(axes: Axes, width: float, height: float) -> None:
    """Axes without ticks or frame, in units of cells."""
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_aspect("equal")
    axes.axis("off")
