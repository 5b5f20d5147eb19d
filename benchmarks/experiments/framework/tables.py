"""Results as tables for the documentation, the console and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.experiments.framework.columns import ARROWS, Column
from examples.common.estimates import Estimate, estimate

Results = Mapping[str, Any]
Entry = Mapping[str, Any]
Row = dict[str, str]


def columns_of(results: Results, name: str = "columns") -> list[Column]:
    return [Column(**column) for column in results[name]]


def method_table(results: Results) -> pd.DataFrame:
    """One row per method: headline, difference to the baseline, and the compact columns, in every condition."""
    return _compared(results, results["methods"], {"method": "method", "baseline": "baseline"}, "against_baseline")


def candidate_table(results: Results) -> pd.DataFrame:
    """One row per candidate: headline, difference to the method's baseline, and the compact columns.

    The arrows of the headline and the compact columns compare with the method without the change.
    """
    keys = {"question": "question", "of": "method", "label": "value", "series": "line"}
    table = _compared(results, results["candidates"], keys, "against_unchanged")
    return table.loc[:, (table != "").any()]


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


def _compared(results: Results, entries: Sequence[Entry], keys: Mapping[str, str], arrows: str) -> pd.DataFrame:
    """Rows by `keys` (field: heading); per condition the headline, its gain, and the compact columns."""
    headline, *others = columns_of(results)
    conditions = [name for name in results["conditions"] if any(entry["condition"] == name for entry in entries)]
    rows: dict[tuple[str, ...], Row] = {}
    for entry in entries:
        key = tuple(entry[field] or "" for field in keys)
        row = rows.setdefault(key, dict(zip(keys.values(), key, strict=True)))
        condition = entry["condition"]
        row[f"{headline.label}, {condition}"] = cell(entry, headline, arrows)
        row[f"gain, {condition}"] = gain(entry, headline)
        row |= {f"{column.label}, {condition}": cell(entry, column, arrows) for column in others if column.compact}
    names = [
        f"{label}, {condition}"
        for condition in conditions
        for label in [headline.label, "gain", *(column.label for column in others if column.compact)]
    ]
    return pd.DataFrame(list(rows.values()), columns=[*keys.values(), *names]).fillna("")


def cell(entry: Entry, column: Column, arrows: str = "against_baseline") -> str:
    """Mean and interval of a measure with the arrow of a difference; "" where it was not measured."""
    if column.measure not in entry["mean"]:
        return ""
    against = entry[arrows].get(column.measure)
    return column.text(Estimate(**entry["mean"][column.measure])) + (
        ARROWS[Estimate(**against).sign] if against else ""
    )


def gain(entry: Entry, column: Column) -> str:
    """Paired difference to the baseline, "" where there is none."""
    against = entry["against_baseline"].get(column.measure)
    return column.difference(Estimate(**against)) if against else ""


def markdown(table: pd.DataFrame) -> str:
    return table.to_markdown(index=False, tablefmt="github", disable_numparse=True)
