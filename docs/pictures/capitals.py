"""Accuracy of DPO and ASR-DPO during training on all pairs and on adversarial pairs, from a stored run."""

from pathlib import Path

import matplotlib.pyplot as plt
from style import HERE, INK, MUTED, NEGATIVE, POSITIVE, ROOT, save

from examples.capitals.comparison import ADVERSARIAL, ALL, ASR_DPO, DPO, PARTS, read_logs
from examples.common.estimates import estimate

COLORS = {DPO: NEGATIVE, ASR_DPO: POSITIVE}


def draw(folder: Path = HERE) -> Path:
    runs = read_logs(ROOT / "benchmarks" / "results" / "capitals.json")
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 2.7), sharey=True)
    for axes, source in zip(panels, (ALL, ADVERSARIAL), strict=True):
        for method, color in COLORS.items():
            logs = [run[method, source] for run in runs]
            steps = [entry["step"] for entry in logs[0]]
            points = [estimate([100 * log[i][PARTS] for log in logs]) for i in range(len(steps))]
            means = [point.mean for point in points]
            half = [point.half_width or 0.0 for point in points]
            axes.plot(steps, means, color=color, linewidth=2, label=method)
            lower = [mean - width for mean, width in zip(means, half, strict=True)]
            upper = [mean + width for mean, width in zip(means, half, strict=True)]
            axes.fill_between(steps, lower, upper, color=color, alpha=0.2, linewidth=0)
        axes.set_title(f"trained on {source}", fontsize=10.5, color=INK)
        axes.set_xlabel("step")
        axes.set_ylim(0, 104)
        axes.grid(axis="y", color=MUTED, alpha=0.25, linewidth=0.8)
    panels[0].set_ylabel("parts right, %")
    panels[0].legend(frameon=False, loc="lower right")
    return save(figure, "capitals", folder)


if __name__ == "__main__":
    draw()
