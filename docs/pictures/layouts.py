"""Three responses in the padded layout and the same tokens in the packed layout."""

from pathlib import Path

import matplotlib.pyplot as plt
from style import HERE, INK, MASKED, MUTED, blank, cell, save

ROWS = ("#3d6fb6", "#e0912f", "#2f9e6e")
LENGTHS = (5, 7, 3)
WIDTH = 7


def draw(folder: Path = HERE) -> Path:
    total = sum(LENGTHS)
    figure, axes = plt.subplots(figsize=(7.2, 3.9))
    blank(axes, total + 0.2, 8.6)
    axes.text(0, -0.45, "padded: values [B, T] = [3, 7] and a mask [3, 7]", fontweight="bold")
    for b, length in enumerate(LENGTHS):
        for t in range(WIDTH):
            valid = t < length
            cell(axes, t, b, f"{b},{t}" if valid else "", color=ROWS[b] if valid else MASKED, ink="white")
            cell(axes, t + WIDTH + 1, b, str(int(valid)), color="white", ink=INK if valid else MUTED, edge="#d5dae0")
    axes.text(WIDTH / 2, 3.45, "values", ha="center", color=MUTED)
    axes.text(WIDTH * 1.5 + 1, 3.45, "mask", ha="center", color=MUTED)
    axes.text(0, 5.05, "packed: values [N] = [15] and cu_seqlens [B + 1] = [0, 5, 12, 15]", fontweight="bold")
    start = 0
    for b, length in enumerate(LENGTHS):
        for t in range(length):
            cell(axes, start + t, 5.5, f"{b},{t}", color=ROWS[b], ink="white")
        axes.plot([start, start], [6.5, 6.85], color=INK, linewidth=1)
        axes.text(start, 7.45, str(start), ha="center")
        start += length
    axes.plot([start, start], [6.5, 6.85], color=INK, linewidth=1)
    axes.text(start, 7.45, str(start), ha="center")
    axes.text(0, 8.4, "A gray cell is padding: it is stored, but its value is never used.", color=MUTED, fontsize=9.5)
    return save(figure, "layouts", folder)


if __name__ == "__main__":
    draw()
