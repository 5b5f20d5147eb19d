"""One reward trace with its thresholds, the trigger's states, the segments and the loss mask."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from style import HERE, INK, KEPT, MASKED, MUTED, NEGATIVE, NEUTRAL, POSITIVE, SEGMENTS, cell, save

import segkernel

LOW, HIGH = -0.5, 0.5
REWARDS = (0.0, 0.0, 0.0, 0.2, 0.8, 0.9, 0.3, -0.2, 0.7, 0.1, -0.8, -0.3, -0.9, 0.2, -0.1, 0.9, 0.6, 0.2)
PROMPT = 3  # tokens
COLOR_OF_STATE = {1: POSITIVE, 0: NEUTRAL, -1: NEGATIVE}


def draw(folder: Path = HERE) -> Path:
    rewards = torch.tensor([REWARDS])
    response = torch.arange(len(REWARDS))[None] >= PROMPT
    states = segkernel.hysteresis(rewards, response, low=LOW, high=HIGH)[0].tolist()
    segments = segkernel.segment(rewards, response, delta=HIGH, sequence_sign=+1)
    ids = segments.ids[0].tolist()
    kept = segments.mask[0].tolist()

    figure, (trace, strips) = plt.subplots(
        2, 1, figsize=(7.2, 4.9), gridspec_kw={"height_ratios": [2.1, 1.6], "hspace": 0.06}
    )
    draw_trace(trace)
    strips.set_xlim(0, len(REWARDS))
    strips.set_ylim(4.05, -0.15)
    strips.axis("off")
    for t in range(len(REWARDS)):
        if t < PROMPT:
            for row in range(4):
                cell(strips, t, row, color=MASKED)
            continue
        cell(strips, t, 0, f"{states[t]:+d}" if states[t] else "0", color=COLOR_OF_STATE[states[t]], ink="white")
        cell(strips, t, 1, str(ids[t]), color=SEGMENTS[ids[t] % 2], ink="white")
        cell(strips, t, 2, "✓" if kept[t] else "", color=KEPT if kept[t] else "white", ink="white", edge="#d5dae0")
        verdict = -1
        other = segkernel.segment(rewards, response, delta=HIGH, sequence_sign=verdict).mask
        mark = bool(other[0, t])
        cell(strips, t, 3, "✓" if mark else "", color=NEGATIVE if mark else "white", ink="white", edge="#d5dae0")
    for row, label in enumerate(("state", "segment", "mask, sign +1", "mask, sign -1")):
        strips.text(-0.3, row + 0.5, label, ha="right", va="center")
    return save(figure, "reward_trace", folder)


def draw_trace(axes: Axes) -> None:
    axes.set_xlim(0, len(REWARDS))
    axes.set_ylim(-1.25, 1.25)
    axes.axvspan(0, PROMPT, color=MASKED, linewidth=0)
    axes.text(PROMPT / 2, 0, "prompt\n(masked)", ha="center", va="center", color=MUTED)
    axes.axhspan(LOW, HIGH, xmin=PROMPT / len(REWARDS), color="#fdf3df", linewidth=0)
    for threshold, name in ((HIGH, "high"), (LOW, "low")):
        axes.axhline(threshold, xmin=PROMPT / len(REWARDS), color="#b7791f", linewidth=1, linestyle=(0, (4, 3)))
        axes.text(len(REWARDS) + 0.15, threshold, name, va="center", color="#b7791f")
    axes.text(len(REWARDS) + 0.15, 0, "neutral\nzone", va="center", color="#b7791f", fontsize=9)
    positions = [t + 0.5 for t in range(PROMPT, len(REWARDS))]
    axes.plot(positions, REWARDS[PROMPT:], color=INK, linewidth=1.4, marker="o", markersize=4.5)
    axes.set_ylabel("token reward")
    axes.set_yticks([-1, -0.5, 0, 0.5, 1])
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)


if __name__ == "__main__":
    draw()
