"""Times on a CPU relative to segkernel's, a panel per group of operators, from the stored results."""

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from style import HERE, INK, KEPT, MUTED, OURS, RESULTS, color_of, save

LEFT_OUT = {"bandwidth", "import_time", "scaling"}  # no operators, or in a picture of its own


def draw(folder: Path = HERE) -> Path:
    groups = groups_of(json.loads(RESULTS.read_text(encoding="utf-8"))["rows"])
    heights = [len(works) for works in groups.values()]
    figure, panels = plt.subplots(
        len(groups),
        1,
        figsize=(7.2, 0.62 * sum(heights) + 0.5 * len(groups) + 0.6),
        height_ratios=heights,
        sharex=True,
        layout="constrained",
        squeeze=False,
    )
    for axes, (group, works) in zip(panels[:, 0], groups.items(), strict=True):
        draw_group(axes, group, works)
    panels[-1, 0].set_xlabel("time relative to segkernel")
    return save(figure, "speed", folder)


def groups_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds by group, work and implementation, of works that segkernel and a peer do."""
    ours = {row["work"] for row in rows if row["implementation"] == OURS}
    compared = ours & {row["work"] for row in rows if not row["implementation"].startswith(OURS)}
    groups: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if "seconds" in row and row["work"] in compared and row["group"] not in LEFT_OUT:
            works = groups.setdefault(row["group"], {})
            works.setdefault(row["work"], {})[row["implementation"]] = row["seconds"]
    return groups


def draw_group(axes: plt.Axes, group: str, works: dict[str, dict[str, float]]) -> None:
    """A line per work, a dot per implementation; open ones are segkernel's variants."""
    axes.set_xscale("log")
    axes.axvline(1, color=KEPT, alpha=0.4, linewidth=1, zorder=0)
    for line, (work, times) in enumerate(works.items()):
        ratios = {name: seconds / times[OURS] for name, seconds in times.items()}
        axes.plot([min(ratios.values()), max(ratios.values())], [line] * 2, color=MUTED, alpha=0.4, zorder=1)
        axes.text(0, line - 0.3, work, transform=axes.get_yaxis_transform(), fontsize=9, color=INK)
        for name, ratio in ratios.items():
            color = color_of(name)
            is_variant = name.startswith(OURS) and name != OURS
            axes.scatter(
                ratio,
                line,
                s=60 if name == OURS else 36,
                facecolor="white" if is_variant else color,
                edgecolor=MUTED if color == "white" else color,
                label=name,
                zorder=3 if name == OURS else 2,
            )
    axes.set_ylim(len(works) - 0.6, -0.7)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.set_title(group, loc="left", fontsize=10.5, color=INK, fontweight="bold")
    axes.grid(axis="x", color=MUTED, alpha=0.25, linewidth=0.8)
    handles, names = axes.get_legend_handles_labels()
    by_name = dict(zip(names, handles, strict=True))
    axes.legend(by_name.values(), by_name, frameon=False, fontsize=8.5, loc="center left", bbox_to_anchor=(1, 0.5))


if __name__ == "__main__":
    draw()
