"""Output of a finished experiment: results as JSON, plots, a report, and the table in the documentation."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.experiments.plots import write_plots
from benchmarks.experiments.settings import Settings
from benchmarks.experiments.tables import detailed_table, markdown, method_table
from benchmarks.experiments.workspace import write_atomically
from benchmarks.machine import installed_versions, machine
from benchmarks.pages import replace_between
from examples.common.estimates import estimate
from segkernel.training.report import write_report

MARKERS = ("<!-- experiment:begin -->", "<!-- experiment:end -->")
LEGEND = (
    "Parts right, in percent, in greedy answers to {questions} held-out questions: mean over {seeds} and 95 % "
    "t-interval. ↑ and ↓: the interval of the difference to the baseline, paired by seed, excludes 0. The columns name "
    "the source of a policy's pairs and of its rewards: all pairs; adversarial pairs (the preference contradicts more "
    "than half of the parts) with a reward model of all pairs; adversarial pairs for both. A mask agrees with the true "
    "credit at a token if it keeps the token exactly when its credit has the sign of its response's verdict."
)


def with_environment(
    results: dict[str, Any], settings: Settings, wall_seconds: float, processes: int
) -> dict[str, Any]:
    """Results with machine, versions, settings and wall time."""
    return {
        "machine": {**machine(), **installed_versions("transformers", "accelerate"), "cores": str(os.cpu_count())},
        "settings": asdict(settings),
        "wall_seconds": wall_seconds,
        "processes": processes,
        **results,
    }


def write_results(results: dict[str, Any], json_file: Path, folder: Path) -> Path:
    """Write the JSON file, and into `folder` the plots and the report; returns the report."""
    write_atomically(json_file, one_entry_per_line(results))
    return write_report(
        folder,
        title="Methods against their baselines",
        summary=detailed_table(results["methods"] + results["sweeps"]).to_dict("records"),
        description="\n\n".join([legend(results), reward_models(results), environment(results)]),
        images=write_plots(results, folder),
    )


def one_entry_per_line(results: dict[str, Any]) -> str:
    """JSON with one list element per line, for readable diffs.

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


def write_page(results: dict[str, Any], page: Path) -> None:
    """Update the generated table of the documentation's page."""
    table = markdown(method_table(results["methods"]))
    replace_between(page, MARKERS, "\n\n".join([environment(results), table, legend(results), reward_models(results)]))


def legend(results: dict[str, Any]) -> str:
    """Explanation of the table."""
    seeds = len(results["settings"]["seeds"])
    return LEGEND.format(questions=results["settings"]["questions"], seeds=f"{seeds} seeds" if seeds > 1 else "1 seed")


def reward_models(results: dict[str, Any]) -> str:
    """Ranking accuracy of the reward models on held-out pairs, by the source of their training pairs."""
    accuracies: dict[str, list[str]] = {}
    for name, per_seed in results["stages"].items():
        if "accuracy" in next(iter(per_seed.values())):
            kind, _, source = name.partition(" pairs=")
            mean = estimate([one["accuracy"] for one in per_seed.values()]).mean
            accuracies.setdefault(f"{kind} model", []).append(f"{100 * mean:.1f} % ({source})")
    return "Held-out pairs ranked right: " + "; ".join(f"{k}, {' and '.join(v)}" for k, v in accuracies.items()) + "."


def environment(results: dict[str, Any]) -> str:
    """Machine, versions and wall time in one sentence."""
    here = results["machine"]
    versions = ", ".join(f"{name} {here[name]}" for name in ("torch", "transformers", "segkernel") if name in here)
    return (
        f"{here['cpu']}, {here['cores']} cores; Python {here['python']}, {versions}; "
        f"{results['wall_seconds'] / 60:.0f} minutes in {results['processes']} processes."
    )
