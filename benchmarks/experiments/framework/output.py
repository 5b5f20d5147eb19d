"""Output of a finished run: results as JSON, plots, a report, and tables in the documentation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.experiments.framework.plots import write_plots
from benchmarks.experiments.framework.tables import (
    candidate_table,
    detailed_table,
    markdown,
    method_table,
    stage_table,
)
from benchmarks.experiments.framework.workspace import write_atomically
from benchmarks.pages import replace_between
from segkernel.training.report import write_report

Results = Mapping[str, Any]

STATISTICS = (
    "Mean over {seeds} and 95 % t-interval. ↑ and ↓: the interval of the difference to the baseline, paired by seed, "
    "excludes 0. A gain is that difference."
)
CANDIDATE_STATISTICS = "In the table of candidates the arrows compare with the method without the change."


def write_results(results: Results, json_file: Path, folder: Path) -> Path:
    """Write the JSON file, and into `folder` the plots and the report; returns the report."""
    write_atomically(json_file, one_entry_per_line(results))
    return write_report(
        folder,
        title=results["title"],
        summary=detailed_table(results).to_dict("records"),
        description="\n\n".join(filter(None, [legend(results), ran_on(results)])),
        images=write_plots(results, folder),
    )


def one_entry_per_line(results: Results) -> str:
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
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return "[\n" + ",\n".join(map(json.dumps, value)) + "\n]"
        return json.dumps(value)

    return "{\n" + ",\n".join(f"{json.dumps(name)}: {text(value)}" for name, value in results.items()) + "\n}\n"


def markers(name: str) -> tuple[str, str]:
    """Lines of a documentation page between which the tables of a run are."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def write_page(results: Results, name: str, page: Path) -> None:
    """Update the generated tables of a run in the documentation's page."""
    replace_between(page, markers(name), page_text(results))


def page_text(results: Results) -> str:
    """Tables of a run with their explanation, as Markdown."""
    tables = [method_table(results), detailed_table({**results, "candidates": []}), stage_table(results)]
    if results["candidates"]:
        tables.insert(1, candidate_table(results))
    parts = [ran_on(results), *(markdown(table) for table in tables if len(table)), legend(results)]
    return "\n\n".join(filter(None, parts))


def legend(results: Results) -> str:
    """Explanation of the tables."""
    count = len(results["seeds"])
    named = f"seeds {results['seeds'][0]} to {results['seeds'][-1]}" if count > 1 else f"seed {results['seeds'][0]}"
    parts = [results["legend"], STATISTICS.format(seeds=named)]
    return " ".join(filter(None, [*parts, CANDIDATE_STATISTICS if results["candidates"] else ""]))


def ran_on(results: Results) -> str:
    """One sentence per run: machine, versions and wall time."""
    return " ".join(map(described, results["runs"]))


def described(run: Mapping[str, Any]) -> str:
    """Machine, versions and wall time of a run in one sentence.

    Example:
        >>> machine = {"gpu": "NVIDIA H200", "cpu": "Xeon", "cores": "16", "python": "3.12", "torch": "2.11"}
        >>> described({"machine": machine, "packages": [], "wall_seconds": 300.0, "processes": 8})
        'NVIDIA H200; Xeon, 16 cores; Python 3.12, torch 2.11; 5 minutes in 8 processes.'
    """
    here, count = run["machine"], run["processes"]
    names = ("torch", "transformers", "segkernel", *run["packages"])
    versions = ", ".join(f"{name} {here[name]}" for name in names if name in here)
    return (
        f"{here['gpu'] + '; ' if 'gpu' in here else ''}{here['cpu']}, {here['cores']} cores; "
        f"Python {here['python']}, {versions}; "
        f"{run['wall_seconds'] / 60:.0f} minutes in {count} process{'es' if count > 1 else ''}."
    )
