"""The numbers as tables: for the README, the console and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from benchmarks.experiments.summary import Estimate
from benchmarks.experiments.tasks import ALL_PAIRS, CONDITIONS

ARROWS = {1: " ↑", -1: " ↓", 0: ""}


def method_rows(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row per method: its accuracy in every condition, and what it was trained on with all pairs."""
    rows: dict[str, dict[str, str]] = {}
    for entry in entries:
        row = rows.setdefault(
            entry["method"],
            {"method": entry["method"], "baseline": entry["baseline"], **dict.fromkeys(CONDITIONS, "")},
        )
        row[entry["condition"]] = compared(entry, "parts_right")
        if entry["condition"] == ALL_PAIRS:
            row |= {
                "tokens trained on": percent(entry, "tokens_trained"),
                "mask agrees with true credit": percent(entry, "mask_agreement"),
                "adversarial parts moved right": percent(entry, "moved_right"),
                "time for segments": percent(entry, "segmenting"),
            }
    if rows:
        next(iter(rows.values()))["baseline"] = ""
    return list(rows.values())


def sweep_rows(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row per variant: its accuracy in the conditions of the sweeps, its mask with all pairs."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for entry in entries:
        key = entry["sweep"], entry["label"]
        row = rows.setdefault(key, {"sweep": key[0], "asr-dpo with": key[1]})
        row[entry["condition"]] = (
            compared(entry, "parts_right") if "," in entry["method"] else percent(entry, "parts_right")
        )
        if entry["condition"] == ALL_PAIRS:
            row |= {
                "tokens trained on": percent(entry, "tokens_trained"),
                "mask agrees with true credit": percent(entry, "mask_agreement"),
            }
    return list(rows.values())


DETAILS = {
    "parts right": "parts_right",
    "answers all right": "all_right",
    "starred parts right": "key_right",
    "answers malformed": "malformed",
    "adversarial parts moved right": "moved_right",
    "tokens trained on": "tokens_trained",
    "mask agrees with true credit": "mask_agreement",
    "as would all tokens": "agreement_of_everything",
    "time for segments": "segmenting",
}


def detailed_rows(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row per method and condition, with everything that was measured."""
    by_run = {(entry["method"], entry["condition"]): entry for entry in entries}
    return [
        {
            "method": method,
            "trained on": condition,
            "against": entry["baseline"],
            "difference": percent({"mean": entry["against_baseline"]}, "parts_right"),
            **{heading: percent(entry, measure) for heading, measure in DETAILS.items()},
        }
        for (method, condition), entry in by_run.items()
    ]


def percent(entry: Mapping[str, Any], measure: str) -> str:
    """
    Example:
        >>> percent({"mean": {"parts_right": {"mean": 0.5, "half_width": 0.0312}}}, "parts_right")
        '50.0 ± 3.1'
        >>> percent({"mean": {}}, "parts_right")
        ''
    """
    if measure not in entry["mean"]:
        return ""
    center, half_width = entry["mean"][measure].values()
    return f"{100 * center:.1f}" + ("" if half_width is None else f" ± {100 * half_width:.1f}")


def compared(entry: Mapping[str, Any], measure: str) -> str:
    """The same with an arrow where the paired difference to the baseline is clear of 0."""
    sign = Estimate(**entry["against_baseline"][measure]).sign if measure in entry["against_baseline"] else 0
    return percent(entry, measure) + ARROWS[sign]


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    return tabulate([list(row.values()) for row in rows], list(rows[0]), tablefmt="github", disable_numparse=True)
