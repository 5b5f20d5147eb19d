"""The logits that a masked log-probability reads: whole rows of kept tokens, nothing of other rows."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle
from style import HERE, INK, KEPT, MASKED, MUTED, blank, cell, save

import segkernel

VOCABULARY = 12
LABELS = (4, 9, 1, 6, 10, 2, 7)
TOKEN_REWARDS = (0.0, 0.9, 0.8, -0.9, -0.7, 0.9, 0.2)


def draw(folder: Path = HERE) -> Path:
    mask = segkernel.segment(torch.tensor([TOKEN_REWARDS]), delta=0.5, sequence_sign=+1).mask[0]
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(len(LABELS), VOCABULARY, generator=generator)
    logits[~mask] = torch.nan  # never read: the results below are finite
    logprobs = segkernel.token_logprobs(logits, torch.tensor(LABELS), mask).tolist()

    figure, axes = plt.subplots(figsize=(7.2, 3.7))
    blank(axes, VOCABULARY + 8.6, len(LABELS) + 1.9)
    axes.text(0.5, -0.4, "mask", ha="center")
    axes.text(2 + VOCABULARY / 2, -0.4, "logits [T, V]", ha="center")
    axes.text(VOCABULARY + 5.3, -0.4, "log-probability [T]", ha="center")
    for t, label in enumerate(LABELS):
        kept = bool(mask[t])
        cell(axes, 0, t, "✓" if kept else "", color=KEPT if kept else "white", ink="white", edge="#d5dae0")
        for v in range(VOCABULARY):
            if not kept:
                cell(axes, 2 + v, t, color=MASKED)
            else:
                cell(axes, 2 + v, t, color="#1d7a52" if v == label else "#bfe3d2")
        text = f"{logprobs[t]:.2f}" if kept else "0"
        axes.text(VOCABULARY + 5.3, t + 0.5, text, ha="center", va="center", color=INK if kept else MUTED)
    axes.annotate(
        "", xy=(VOCABULARY + 4, 3.5), xytext=(VOCABULARY + 2.4, 3.5), arrowprops={"arrowstyle": "->", "color": INK}
    )
    for x, color, text in ((0, "#bfe3d2", "read once"), (5.2, "#1d7a52", "the label"), (10.2, MASKED, "never read")):
        axes.add_patch(Rectangle((x, len(LABELS) + 0.75), 0.8, 0.8, facecolor=color))
        axes.text(x + 1.15, len(LABELS) + 1.15, text, va="center")
    return save(figure, "masked_read", folder)


if __name__ == "__main__":
    draw()
