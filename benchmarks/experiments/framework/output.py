"""Output of a finished run: results as JSON, plots, and a report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.experiments.framework.page import legend, ran_on
from benchmarks.experiments.framework.plots import write_plots
from benchmarks.experiments.framework.tables import detailed_table
from benchmarks.experiments.framework.workspace import write_atomically
from segkernel.training.report import write_report

Results = Mapping[str, Any]


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
