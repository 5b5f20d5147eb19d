"""What a finished experiment leaves: results as JSON, plots, a report, and for a full run the README's table."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.experiments.plots import write_plots
from benchmarks.experiments.settings import Settings
from benchmarks.experiments.summary import estimate
from benchmarks.experiments.tables import detailed_rows, markdown, method_rows
from benchmarks.experiments.workspace import write_whole
from benchmarks.machine import installed_versions, machine
from benchmarks.readme import replace_between
from segkernel.training.report import write_report

MARKS = ("<!-- experiment:begin -->", "<!-- experiment:end -->")
LEGEND = (
    "Greedy answers to {questions} held-out questions: parts that are right, in percent; mean over {seeds} and 95 % "
    "t-interval. ↑ and ↓: the paired difference to the baseline, seed by seed, is clear of 0. The columns say where a "
    "policy's pairs and the rewards come from: all pairs; adversarial pairs (their preference contradicts more than "
    "half of their parts) with a reward model of all pairs; adversarial pairs alone. A token should be trained on when "
    "its true credit has the sign of its response's verdict."
)


def with_circumstances(
    results: dict[str, Any], settings: Settings, wall_seconds: float, processes: int
) -> dict[str, Any]:
    return {
        "machine": {**machine(), **installed_versions("transformers", "accelerate"), "cores": str(os.cpu_count())},
        "settings": asdict(settings),
        "wall_seconds": wall_seconds,
        "processes": processes,
        **results,
    }


def write_results(results: dict[str, Any], json_file: Path, folder: Path) -> Path:
    """Write the JSON file, and into `folder` the plots and the report; returns the report."""
    write_whole(json_file, one_entry_per_line(results))
    return write_report(
        folder,
        title="What each method buys",
        summary=detailed_rows(results["methods"] + results["sweeps"]),
        description="\n\n".join([legend(results), reward_models(results), circumstances(results)]),
        images=write_plots(results, folder),
    )


def one_entry_per_line(results: dict[str, Any]) -> str:
    """JSON that a line-wise comparison of two runs can be read in.

    Example:
        >>> print(one_entry_per_line({"machine": {"cores": "2"}, "methods": [{"a": 1}, {"a": 2}]}))
        {
        "machine": {"cores": "2"},
        "methods": [
        {"a": 1},
        {"a": 2}
        ]
        }
        <BLANKLINE>
    """

    def text(value: Any) -> str:
        if isinstance(value, list):
            return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
        return json.dumps(value)

    return "{\n" + ",\n".join(f"{json.dumps(name)}: {text(value)}" for name, value in results.items()) + "\n}\n"


def write_readme(results: dict[str, Any], readme: Path) -> None:
    table = markdown(method_rows(results["methods"]))
    replace_between(
        readme, MARKS, "\n\n".join([circumstances(results), table, legend(results), reward_models(results)])
    )


def legend(results: dict[str, Any]) -> str:
    seeds = len(results["settings"]["seeds"])
    return LEGEND.format(questions=results["settings"]["questions"], seeds=f"{seeds} seeds" if seeds > 1 else "1 seed")


def reward_models(results: dict[str, Any]) -> str:
    """How well the reward models rank held-out pairs: those of all pairs, and those of adversarial pairs alone."""
    accuracies: dict[str, list[str]] = {}
    for name, per_seed in results["stages"].items():
        if "accuracy" in next(iter(per_seed.values())):
            kind, _, source = name.partition(" pairs=")
            mean = estimate([one["accuracy"] for one in per_seed.values()]).mean
            accuracies.setdefault(f"{kind} model", []).append(f"{100 * mean:.1f} % ({source})")
    return "Held-out pairs ranked right: " + "; ".join(f"{k}, {' and '.join(v)}" for k, v in accuracies.items()) + "."


def circumstances(results: dict[str, Any]) -> str:
    here = results["machine"]
    versions = ", ".join(f"{name} {here[name]}" for name in ("torch", "transformers", "segkernel") if name in here)
    return (
        f"{here['cpu']}, {here['cores']} cores; Python {here['python']}, {versions}; "
        f"{results['wall_seconds'] / 60:.0f} minutes in {results['processes']} processes."
    )
