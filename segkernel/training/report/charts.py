"""Charts as inline SVG by matplotlib, in the colors of the page: `style.html.j2` defines them for light and dark."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from segkernel.training.metrics import logged_metrics, metric_name
from segkernel.training.report.example import Example
from segkernel.training.report.text import visible_text

INK, GRID, PLUS, MINUS, NEUTRAL = "#4a5361", "#d9dee6", "#0b66b5", "#b34700", "#7b8494"
SERIES = ["#2456a6", "#c2560a", "#14805e", "#8e4ba8"]
SIGN_COLORS = {1: PLUS, -1: MINUS, 0: NEUTRAL}
# Variables of the page that take the place of these colors in the SVG.
VARIABLES = {
    INK: "muted",
    GRID: "line",
    PLUS: "plus",
    MINUS: "minus",
    NEUTRAL: "neutral",
    **{color: f"series-{number}" for number, color in enumerate(SERIES, 1)},
}
DASHES = ["solid", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5))]
LABEL_HEIGHT = 0.11  # of the height of a reward trace
POINTS_PER_TOKEN, MIN_INCHES, MAX_INCHES = 40, 3.6, 10.5

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "segkernel",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "sans-serif"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "legend.frameon": False,
}


@dataclass
class Curve:
    """One metric of one run over its training steps."""

    run: str
    split: str  # "train" or "eval"
    part: str = ""  # side of the pairs: "chosen" or "rejected"
    steps: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @property
    def label(self) -> str:
        return " ".join(filter(None, [self.run, self.part, "held out" if self.split == "eval" else ""])) or "training"


def collect_curves(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, list[Curve]]:
    """Curves by chart, from the `log_history` of every run; the loss comes first.

    `eval_x` and `rollout/x` belong to the chart of `x`, the two sides of a pair to one chart. Timings, counts and
    interval bounds are omitted.

    Example:
        >>> charts = collect_curves({"dpo": [{"step": 1, "loss": 0.7}, {"step": 1, "eval_loss": 0.6}]})
        >>> [(c.split, c.values) for c in charts["loss"]]
        [('train', [0.7]), ('eval', [0.6])]
    """
    found: dict[str, dict[tuple[str, str, str], Curve]] = {}
    for run, history in runs.items():
        for entry in history:
            if "step" not in entry:
                continue
            for key, value in logged_metrics(entry).items():
                name = metric_name(key)
                split = "eval" if name.held_out else "train"
                curve = found.setdefault(name.chart, {}).setdefault(
                    (run, split, name.part), Curve(run, split, name.part)
                )
                curve.steps.append(float(entry["step"]))
                curve.values.append(value)
    last = ("grad_norm", "learning_rate")
    order = sorted(found, key=lambda name: (name != "loss", name in last))
    return {name: list(found[name].values()) for name in order}


def curve_chart(curves: Sequence[Curve], runs: Sequence[str]) -> str:
    """Chart of one metric; color and dash depend on the run and the side of the pairs, held-out values have markers."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 2.5), layout="constrained")
        axes = figure.subplots()
        for curve in curves:
            index = runs.index(curve.run) + (len(runs) if curve.part == "rejected" else 0)
            held_out = curve.split == "eval"
            axes.plot(
                curve.steps,
                curve.values,
                color=SERIES[index % len(SERIES)],
                linestyle=DASHES[index % len(DASHES)] if not held_out else (0, (2, 2)),
                linewidth=1.6 if not held_out else 1.1,
                marker="o" if held_out or len(curve.steps) == 1 else None,
                markersize=4,
                label=curve.label,
            )
        axes.grid(axis="y", linewidth=0.6)
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.margins(x=0.02)
        if len(curves) > 1:
            figure.legend(loc="outside upper left", ncols=2, fontsize=8, handlelength=2.6)
        return _svg(figure)


def reward_trace(example: Example) -> str:
    """Token rewards as a step line over the shaded segments, with the trigger's thresholds and the loss mask below."""
    rewards, count = example.token_rewards, len(example.tokens)
    width = min(max(count * POINTS_PER_TOKEN / 72 + 1.2, MIN_INCHES), MAX_INCHES)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, 2.1), layout="constrained")
        axes = figure.subplots()
        for start, end, sign in example.spans():
            color = SIGN_COLORS[sign]
            axes.axvspan(start, end, color=color, alpha=0.09, linewidth=0)
            axes.axvline(start, color=color, linewidth=0.7, alpha=0.5)
            for left, right in _kept_stretches(example, start, end):
                axes.axvspan(left, right, ymin=0, ymax=0.04, color=color, alpha=0.85, linewidth=0)
        _thresholds(axes, example)
        finite = [reward if math.isfinite(reward) else math.nan for reward in rewards]
        axes.stairs(finite, range(count + 1), baseline=None, color=INK, linewidth=1.4)
        axes.set_xlim(0, count)
        axes.set_ylabel("token reward")
        if count <= 48:
            # Upright labels would overlap at the largest width.
            rotation = 90 if width == MAX_INCHES else 0
            labels = [_label(token) for token in example.tokens]
            axes.set_xticks([t + 0.5 for t in range(count)], labels, rotation=rotation)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))
            axes.set_xlabel("token")
        axes.tick_params(axis="x", length=0)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        return _svg(figure)


def _thresholds(axes: Axes, example: Example) -> None:
    """Draw the neutral zone and its bounds, with names on the right, and fit the y axis to them and the rewards."""
    lines = [
        ("high", example.high, PLUS, "--"),
        ("base", example.baseline, NEUTRAL, ":"),
        ("low", example.low, MINUS, "--"),
    ]
    known = [(name, value, color, dash) for name, value, color, dash in lines if value is not None]
    for _, value, color, dash in known:
        axes.axhline(value, color=color, linewidth=1, linestyle=dash)
    if example.low is not None and example.high is not None:
        axes.axhspan(example.low, example.high, color=NEUTRAL, alpha=0.13, linewidth=0)
        if example.low == example.high:
            known = [line for line in known if line[0] == "base"] or known[:1]
    finite = [value for value in (*(line[1] for line in known), *example.token_rewards) if math.isfinite(value)]
    if finite:
        room = 0.12 * (max(finite) - min(finite)) or 0.5
        axes.set_ylim(min(finite) - room, max(finite) + room)
    bottom, top = axes.get_ylim()
    right = axes.secondary_yaxis("right")
    labels = [f"{name} {value:.2g}" for name, value, _, _ in known]
    positions = spread([value for _, value, _, _ in known], LABEL_HEIGHT * (top - bottom))
    axes.set_ylim(min([bottom, *positions]), max([top, *positions]))
    right.set_yticks(positions, labels, fontsize=7.5)
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)


def spread(descending: Sequence[float], distance: float) -> list[float]:
    """Positions of labels near their values, in the same order and with the same mean, at least `distance` apart.

    Example:
        >>> spread([3.0, 2.75, -0.5], 1.0)
        [3.25, 2.25, -0.25]
    """
    positions: list[float] = []
    for value in descending:
        positions.append(min(value, positions[-1] - distance) if positions else value)
    shift = (sum(descending) - sum(positions)) / max(len(positions), 1)
    return [position + shift for position in positions]


def _kept_stretches(example: Example, start: int, end: int) -> list[tuple[int, int]]:
    """Runs of kept tokens in [start, end)."""
    stretches: list[tuple[int, int]] = []
    for t in range(start, end):
        if not example.kept[t]:
            continue
        if stretches and stretches[-1][1] == t:
            stretches[-1] = (stretches[-1][0], t + 1)
        else:
            stretches.append((t, t + 1))
    return stretches


def _label(token: str) -> str:
    # An unescaped `$` would start matplotlib's math text.
    shown = visible_text(token).replace("$", r"\$").strip()
    return shown if len(shown) <= 8 else shown[:7] + "…"


def _svg(figure: Figure) -> str:
    """The figure as an `<svg>` element without a background, in the page's colors."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The browser draws the text, in fonts of its own; matplotlib only measures it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    for color, variable in VARIABLES.items():
        svg = svg.replace(color, f"var(--{variable})")
    return svg[svg.index("<svg") :]
