"""Results as tables for the documentation, the console and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from benchmarks.experiments.tasks import ALL_PAIRS, CONDITIONS
from examples.common.estimates import Estimate

ARROWS = {1: " ↑", -1: " ↓", 0: ""}
MASK = {"tokens trained on": "tokens_trained", "mask agrees with true credit": "mask_agreement"}
ON_ALL_PAIRS = {**MASK, "adversarial parts moved right": "moved_right", "time for segments": "segmenting"}
DETAILS = {
    "parts right": "parts_right",
    "answers all right": "all_right",
    "starred parts right": "starred_right",
    "answers malformed": "malformed",
    "adversarial parts moved right": "moved_right",
    **MASK,
    "agreement of a full mask": "agreement_of_everything",
    "time for segments": "segmenting",
}


def method_table(entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per method: accuracy in every condition, and what it was trained on with all pairs."""
    table = _wide(entries, ["method", "baseline"], ON_ALL_PAIRS)
    table.loc[table.index[:1], "baseline"] = ""
    return table


def sweep_table(entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per variant: accuracy in the conditions of the sweeps, and its mask with all pairs."""
    # The unchanged asr-dpo is what the variants are compared with.
    entries = [{**e, "against_baseline": {}} if e["method"] == "asr-dpo" else e for e in entries]
    return _wide(entries, ["sweep", "label"], MASK).rename(columns={"label": "asr-dpo with"})


def _wide(entries: Sequence[Mapping[str, Any]], keys: list[str], extra: Mapping[str, str]) -> pd.DataFrame:
    """Rows by `keys`; columns: accuracy by condition, then the `extra` measures with all pairs."""
    accuracy = pd.DataFrame(
        [{**{key: e[key] for key in keys}, "condition": e["condition"], "accuracy": compared(e)} for e in entries]
    )
    conditions = [name for name in CONDITIONS if name in set(accuracy["condition"])]
    wide = accuracy.pivot(index=keys, columns="condition", values="accuracy")[conditions]
    measures = pd.DataFrame(
        [
            {**{key: e[key] for key in keys}, **{heading: percent(e, name) for heading, name in extra.items()}}
            for e in entries
            if e["condition"] == ALL_PAIRS
        ]
    )
    return measures[keys].join(wide, on=keys).join(measures[list(extra)]).fillna("")


def detailed_table(entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row per method and condition with every measure."""
    rows = [
        {
            "method": e["method"],
            "trained on": e["condition"],
            "against": e["baseline"],
            "difference": percent({"mean": e["against_baseline"]}, "parts_right"),
            **{heading: percent(e, measure) for heading, measure in DETAILS.items()},
        }
        for e in entries
    ]
    return pd.DataFrame(rows).drop_duplicates(["method", "trained on"], keep="last")


def percent(entry: Mapping[str, Any], measure: str) -> str:
    """Mean and half width of a measure in percent, "" where it was not measured.

    Example:
        >>> percent({"mean": {"parts_right": {"mean": 0.5, "half_width": 0.0312}}}, "parts_right")
        '50.0 ± 3.1'
        >>> percent({"mean": {}}, "parts_right")
        ''
    """
    return Estimate(**entry["mean"][measure]).percent() if measure in entry["mean"] else ""


def compared(entry: Mapping[str, Any], measure: str = "parts_right") -> str:
    """The same with an arrow where the interval of the paired difference to the baseline excludes 0."""
    against = entry["against_baseline"]
    known = measure in against and entry["method"] != entry["baseline"]
    return percent(entry, measure) + (ARROWS[Estimate(**against[measure]).sign] if known else "")


def markdown(table: pd.DataFrame) -> str:
    return table.to_markdown(index=False, tablefmt="github", disable_numparse=True)
