"""Part of a documentation page that shows a run: tables, plots and their explanation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.experiments.framework.plots import METHODS, methods_title
from benchmarks.experiments.framework.tables import (
    candidate_tables,
    detailed_table,
    markdown,
    method_tables,
    stage_table,
)
from benchmarks.machine import slug
from benchmarks.pages import replace_between

Results = Mapping[str, Any]

STATISTICS = (
    "Mean over {seeds} and 95 % t-interval. A gain is the difference to the baseline, paired by seed. ↑ and ↓: the "
    "interval of that difference excludes 0."
)
CANDIDATE_STATISTICS = (
    "In the tables of candidates the change and the arrows compare with the method without the change."
)


def markers(name: str) -> tuple[str, str]:
    """Lines of a documentation page between which the tables of a run are."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def write_page(results: Results, name: str, page: Path, folder: Path) -> None:
    """Update what a documentation page shows of a run: tables, and the plots that are in `folder`."""
    replace_between(page, markers(name), page_text(results, pictures_of(folder, page)))


def pictures_of(folder: Path, page: Path) -> str:
    """Path of a folder relative to a page.

    Example:
        >>> pictures_of(Path("benchmarks/results/capitals"), Path("docs/experiments.md"))
        '../benchmarks/results/capitals'
    """
    return Path(os.path.relpath(folder, page.parent)).as_posix()


def page_text(results: Results, pictures: str) -> str:
    """Results of a run as Markdown: the columns that decide, and the rest in blocks that can be opened."""
    tables = {f"Trained on {condition}": table for condition, table in method_tables(results).items()}
    shown = [picture(methods_title(results), f"{pictures}/{METHODS}.png"), *captioned(tables)]
    if results["candidates"]:
        questions = [
            collapsed(
                f"{question}: {', '.join(methods)}",
                picture(question, f"{pictures}/{slug(question)}.png"),
                *captioned(methods),
            )
            for question, methods in candidate_tables(results).items()
        ]
        shown = [*questions, collapsed("the methods without a change", *shown)]
    measures = [detailed_table({**results, "candidates": []}), stage_table(results)]
    everything = collapsed("all measures", *(markdown(table) for table in measures if len(table)))
    return "\n\n".join(filter(None, [ran_on(results), *shown, legend(results), everything]))


def captioned(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Tables, each under its name.

    Example:
        >>> captioned({"asr-dpo": pd.DataFrame([{"parts right": "71.8"}])})[0]
        '**asr-dpo**'
    """
    return [text for name, table in tables.items() for text in (f"**{name}**", markdown(table))]


def collapsed(summary: str, *parts: str) -> str:
    """Markdown that a reader opens by its summary."""
    return "\n\n".join([f"<details>\n<summary>{summary}</summary>", *parts, "</details>"])


def picture(title: str, path: str) -> str:
    return f"![{title}]({path})"


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
        f"{duration(run['wall_seconds'])} in {count} process{'es' if count > 1 else ''}."
    )


def duration(seconds: float) -> str:
    """A time in minutes, or in seconds if it is under two minutes.

    Example:
        >>> duration(300.0), duration(20.3)
        ('5 minutes', '20 seconds')
    """
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
