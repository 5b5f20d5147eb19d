"""The figures that a GPU is measured for, from the rows of `measure.py`, and the README's table of both."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.pages import readable

OURS = "segkernel"
PASSED = "passed"
MARKS = ("<!-- gpu:begin -->", "<!-- gpu:end -->")


class Rows:
    """The rows of one run, by the start of the work's name and the implementation."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def value(self, key: str, work: str, implementation: str = OURS) -> float:
        """A LookupError where it was not measured."""
        found = [row for row in self.rows if row["work"].startswith(work) and row["implementation"] == implementation]
        if not found or key not in found[0]:
            raise LookupError(f"{implementation} was not measured")
        return float(found[0][key])

    def seconds(self, work: str, implementation: str = OURS) -> float:
        return self.value("seconds", work, implementation)

    def share_of_copy(self, work: str) -> float:
        achieved = self.value("bytes", work) / self.seconds(work)
        return achieved / self.value("bytes_per_second", "copy", "torch")

    def speedup(self, work: str, peer: str) -> float:
        return self.seconds(work, peer) / self.seconds(work)


@dataclass(frozen=True)
class Figure:
    work: str
    unit: str
    target: float
    measure: Callable[[Rows], float]
    at_most: bool = False

    def judge(self, rows: Rows) -> dict[str, Any]:
        judged: dict[str, Any] = {"work": self.work, "unit": self.unit, "target": self.target, "at_most": self.at_most}
        try:
            value = self.measure(rows)
        except LookupError as error:
            return {**judged, "missing": str(error.args[0])}
        within = operator.le if self.at_most else operator.ge
        return {**judged, "measured": value, "met": within(value, self.target)}


FORWARD, BACKWARD = "log-probs + entropy, forward", "log-probs, forward + backward"
HEAD, BARE = "linear_token_logprobs", "bare matrix products"
SHARE, DENSE = "of copy bandwidth", "of the dense time"
PERCENT = (SHARE, DENSE)


def share(name: str, work: str, target: float) -> Figure:
    return Figure(name, SHARE, target, lambda rows: rows.share_of_copy(work))


def faster(name: str, work: str, peer: str, target: float) -> Figure:
    return Figure(name, f"x faster than {peer}", target, lambda rows: rows.speedup(work, peer))


# Forward reads the logits; backward in place reads them again and writes the gradient: three passes.
FIGURES = (
    share(FORWARD, FORWARD, 0.92),
    faster(FORWARD, FORWARD, "TRL (Triton)", 1.1),
    Figure(
        f"{FORWARD}, 25 % kept",
        DENSE,
        0.28,
        lambda rows: rows.seconds(FORWARD, f"{OURS}, 25 % kept") / rows.seconds(FORWARD),
        at_most=True,
    ),
    share(f"{BACKWARD}, in place", BACKWARD, 0.90),
    faster(f"{BACKWARD}, in place", BACKWARD, "Liger CE", 1.0),
    faster(f"{BACKWARD}, in place", BACKWARD, "flash-attention CE", 1.0),
    Figure("segment [64, 4096]", "µs", 12, lambda rows: rows.seconds("segment [64, 4096]") * 1e6, at_most=True),
    faster("segment [64, 4096]", "segment [64, 4096]", "vectorised torch", 10),
    share("segment [1, 1048576]", "segment [1, 1048576]", 0.60),
    share("segment [4096, 1024]", "segment [4096, 1024]", 0.60),
    # The loop is bound by its calls, so ours counts with the call as well.
    Figure(
        "gae [64, 4096]",
        "x faster than loop over steps",
        50,
        lambda rows: rows.seconds("gae", "loop over steps") / rows.seconds("gae", f"{OURS}, with the call"),
    ),
    Figure(HEAD, f"x the {BARE}", 1.5, lambda rows: rows.seconds(HEAD) / rows.seconds(HEAD, BARE), at_most=True),
    faster(HEAD, HEAD, "TRL chunked", 2.5),
    faster(HEAD, HEAD, "Liger FLCE", 2.5),
    Figure(HEAD, "GiB of extra memory", 1.5, lambda rows: rows.value("extra_bytes", HEAD) / 2**30, at_most=True),
)


def judge(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [figure.judge(Rows(rows)) for figure in FIGURES]


def number(figure: dict[str, Any], key: str) -> str:
    return f"{100 * figure[key]:.3g} %" if figure["unit"] in PERCENT else f"{figure[key]:.3g}"


def line(figure: dict[str, Any]) -> str:
    """A figure beside its target, for a terminal."""
    bound = "at most" if figure["at_most"] else "at least"
    target = f"{bound} {number(figure, 'target')} {figure['unit']}"
    if "measured" not in figure:
        return f"{figure['work']}: {figure['missing']}; {target}"
    return f"{figure['work']}: {number(figure, 'measured')}; {target}: {'met' if figure['met'] else 'NOT MET'}"


def table(results: dict[str, Any]) -> str:
    """What the README says of a run."""
    from tabulate import tabulate  # here: check.py says when it is missing

    here = results["machine"]
    copied = next((row["bytes_per_second"] for row in results["rows"] if "bytes_per_second" in row), None)
    versions = ", ".join(f"{name} {version}" for name, version in here.items() if name != "gpu")
    goals = [
        [
            figure["work"],
            f"{'at most' if figure['at_most'] else 'at least'} {number(figure, 'target')} {figure['unit']}",
            number(figure, "measured") if "measured" in figure else "not measured",
            {True: "yes", False: "no", None: ""}[figure.get("met")],
        ]
        for figure in results["figures"]
    ]
    measured = [
        [
            row["work"],
            row["implementation"],
            readable(row["seconds"]),
            f"{row['bytes'] / row['seconds'] / 1e9:.0f}" if "bytes" in row else "",
            f"{100 * row['bytes'] / row['seconds'] / copied:.0f} %" if "bytes" in row and copied else "",
            f"{row['extra_bytes'] / 2**30:.2f}" if "extra_bytes" in row else "",
        ]
        for row in results["rows"]
        if "seconds" in row
    ]
    absent = sorted({row["implementation"] for row in results["rows"] if "missing" in row})
    parts = [
        f"{here['gpu']}; {versions}. Medians of event-timed calls; `segment`, its torch and `gae` out of CUDA graphs "
        "except where it says with the call; inputs in turn so that none is in the cache. GB/s counts the bytes that "
        "are needed, extra GiB what is allocated beside inputs and their gradients; "
        + (f"a copy moves {copied / 1e9:.0f} GB/s." if copied else "the copy's bandwidth was not measured."),
        tabulate(goals, ["work", "target", "measured", "met"], tablefmt="github", disable_numparse=True),
        tabulate(
            measured,
            ["work", "implementation", "time", "GB/s", "of a copy", "extra GiB"],
            tablefmt="github",
            disable_numparse=True,
        ),
    ]
    if absent:
        parts.append(f"Not installed, or not running there: {', '.join(absent)}.")
    if amiss := [f"{phase['name']} ({phase['outcome']})" for phase in results["phases"] if phase["outcome"] != PASSED]:
        parts.append(f"Of the same run did not pass: {', '.join(amiss)}.")
    return "\n\n".join(parts)
