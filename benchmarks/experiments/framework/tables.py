"""Results as tables for the documentation, the console and the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmarks.experiments.framework.columns import ARROWS, Column
from examples.common.estimates import Estimate, estimate

Results = Mapping[str, Any]
Entry = Mapping[str, Any]
Row = dict[str, str]


def columns_of(results: Results, name: str = "columns") -> list[Column]:
    return [Column(**column) for column in results[name]]


def method_tables(results: Results) -> dict[str, pd.DataFrame]:
    """One table per condition: headline, difference to the baseline and compact columns of every method."""
    tables = {}
    for condition in results["conditions"]:
        entries = [entry for entry in results["methods"] if entry["condition"] == condition]
        if entries:
            rows = [{"method": e["method"], **_decisive(e, results, "gain"), **_compact(e, results)} for e in entries]
            tables[condition] = pd.DataFrame(rows)
    return tables


def candidate_tables(results: Results) -> dict[str, dict[str, pd.DataFrame]]:
    """By question and method, one row per condition and candidate: headline, change, and compact columns.

    The change is the difference to the method without the change; "unchanged" marks the method itself.
    """
    tables: dict[str, dict[str, pd.DataFrame]] = {}
    for entry in results["candidates"]:
        tables.setdefault(entry["question"], {}).setdefault(entry["of"], pd.DataFrame())
    for question, methods in tables.items():
        for method in methods:
            rows = [
                {
                    "trained on": condition,
                    "value": entry["label"],
                    "line": entry["series"],
                    **_decisive(entry, results, "change", "against_unchanged"),
                    **_compact(entry, results, "against_unchanged"),
                }
                for condition in results["conditions"]
                for entry in results["candidates"]
                if (entry["question"], entry["of"], entry["condition"]) == (question, method, condition)
            ]
            table = pd.DataFrame(rows)
            methods[method] = table.loc[:, (table != "").any()]
    return tables


def detailed_table(results: Results) -> pd.DataFrame:
    """One row per method or candidate and condition, with every column."""
    columns = columns_of(results)
    rows = [
        {
            "method": ": ".join(filter(None, [name_of(entry), entry.get("label", "")])),
            "trained on": entry["condition"],
            **{column.label: cell(entry, column) for column in columns},
        }
        for entry in [*results["methods"], *results["candidates"]]
    ]
    table = pd.DataFrame(rows)
    return table.loc[:, (table != "").any()]


def stage_table(results: Results) -> pd.DataFrame:
    """One row per stage that has one of the stage columns."""
    rows = []
    for stage in results["stages"]:
        shown = {
            column.label: column.text(Estimate(*estimate(stage["per_seed"][column.measure])))
            for column in columns_of(results, "stage_columns")
            if column.measure in stage["per_seed"]
        }
        if shown:
            rows.append({"stage": stage["stage"], **shown})
    return pd.DataFrame(rows).fillna("")


def name_of(entry: Entry) -> str:
    """Method, or question of a candidate."""
    if "question" not in entry:
        return str(entry["method"])
    return ", ".join(filter(None, [entry["of"], entry["question"], entry["series"]]))


def _decisive(entry: Entry, results: Results, name: str, against: str = "against_baseline") -> Row:
    """The headline, and the paired difference `name` with the method that it is to."""
    headline = columns_of(results)[0]
    row = {headline.label: cell(entry, headline, arrows=None)}
    if against == "against_unchanged":
        return row | {name: difference_cell(entry, headline, against) or "unchanged"}
    found = difference_cell(entry, headline, against)
    return row | {name: found, "over": entry["baseline"] if found else ""}


def _compact(entry: Entry, results: Results, arrows: str = "against_baseline") -> Row:
    return {column.label: cell(entry, column, arrows) for column in columns_of(results)[1:] if column.compact}


def cell(entry: Entry, column: Column, arrows: str | None = "against_baseline") -> str:
    """Mean and interval of a measure, "" where it was not measured; with `arrows`, the arrow of that difference."""
    if column.measure not in entry["mean"]:
        return ""
    against = entry[arrows].get(column.measure) if arrows else None
    return column.text(Estimate(**entry["mean"][column.measure])) + (
        ARROWS[Estimate(**against).sign] if against else ""
    )


def difference_cell(entry: Entry, column: Column, against: str) -> str:
    """Paired difference with its interval and arrow, "" where there is none."""
    found = entry[against].get(column.measure)
    return column.difference(Estimate(**found)) if found else ""


def markdown(table: pd.DataFrame) -> str:
    return table.to_markdown(index=False, tablefmt="github", disable_numparse=True)
