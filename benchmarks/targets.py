"""Performance targets of the GPU kernels, judged from measured rows."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OURS = "segkernel"
FORWARD, BACKWARD = "token_logprobs + entropy, forward", "token_logprobs, forward + backward"
FEW, FEW_BACKWARD = "token_logprobs + entropy, few rows", "token_logprobs, backward, few rows"
HEAD, BARE = "linear_token_logprobs", "bare matrix products"
BY_SHARE, BY_TOKENS, BY_VOCABULARY = "by share", "by tokens", "by vocabulary"  # series of the group scaling
SHARE, DENSE, DENSE_SHARE = "of copy bandwidth", "of the dense time", "of the dense bandwidth"
PERCENT = (SHARE, DENSE, DENSE_SHARE)


class Rows:
    """Measured rows, looked up by a prefix of the work's name and the implementation."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows

    def value(self, key: str, work: str, implementation: str = OURS) -> float:
        """
        Raises:
            LookupError: it was not measured.
        """
        for row in self.rows:
            if row["work"].startswith(work) and row["implementation"] == implementation and key in row:
                return float(row[key])
        raise LookupError(f"{implementation} was not measured")

    def seconds(self, work: str, implementation: str = OURS) -> float:
        return self.value("seconds", work, implementation)

    def bandwidth(self, work: str, implementation: str = OURS) -> float:
        """Bytes per second."""
        return self.value("bytes", work, implementation) / self.seconds(work, implementation)

    def share_of_copy(self, work: str) -> float:
        return self.bandwidth(work) / self.bandwidth("copy", "torch")

    def speedup(self, work: str, peer: str) -> float:
        return self.seconds(work, peer) / self.seconds(work)


@dataclass(frozen=True)
class Target:
    """A bound on one measured value."""

    work: str
    unit: str
    bound: float
    measure: Callable[[Rows], float]
    at_most: bool = False

    def judge(self, rows: Rows) -> dict[str, Any]:
        """The measured value and whether it meets the bound, or why it is missing."""
        judged: dict[str, Any] = {"work": self.work, "unit": self.unit, "target": self.bound, "at_most": self.at_most}
        try:
            value = self.measure(rows)
        except LookupError as error:
            return {**judged, "missing": str(error.args[0])}
        within = operator.le if self.at_most else operator.ge
        return {**judged, "measured": value, "met": within(value, self.bound)}


def share(name: str, work: str, bound: float) -> Target:
    return Target(name, SHARE, bound, lambda rows: rows.share_of_copy(work))


def share_of_dense(few: str, dense: str) -> Target:
    return Target(few, DENSE_SHARE, 0.85, lambda rows: rows.bandwidth(few) / rows.bandwidth(dense))


def faster(name: str, work: str, peer: str, bound: float) -> Target:
    return Target(name, f"x faster than {peer}", bound, lambda rows: rows.speedup(work, peer))


TARGETS = (
    share(FORWARD, FORWARD, 0.92),
    faster(FORWARD, FORWARD, "TRL (Triton)", 1.1),
    Target(
        f"{FORWARD}, 25 % kept",
        DENSE,
        0.28,
        lambda rows: rows.seconds(FORWARD, f"{OURS}, 25 % kept") / rows.seconds(FORWARD),
        at_most=True,
    ),
    share_of_dense(FEW, FORWARD),
    share_of_dense(FEW_BACKWARD, BACKWARD),
    share(f"{BACKWARD}, in place", BACKWARD, 0.90),
    faster(f"{BACKWARD}, in place", BACKWARD, "Liger CE", 1.0),
    faster(f"{BACKWARD}, in place", BACKWARD, "flash-attention CE", 1.0),
    faster(f"{BACKWARD}, in place", BACKWARD, "quack CE", 1.0),
    Target("segment [64, 4096]", "µs", 12, lambda rows: rows.seconds("segment [64, 4096]") * 1e6, at_most=True),
    faster("segment [64, 4096]", "segment [64, 4096]", "vectorized torch", 10),
    share("segment [1, 1048576]", "segment [1, 1048576]", 0.60),
    share("segment [4096, 1024]", "segment [4096, 1024]", 0.60),
    faster("select_tokens [64, 4096]", "select_tokens [64, 4096]", "topk and scatter", 5),
    faster("select_tokens [4096, 1024]", "select_tokens [4096, 1024]", "topk and scatter", 5),
    # The loop is bound by its launches, so ours counts with the overhead of its call.
    Target(
        "gae [64, 4096]",
        "x faster than loop over steps",
        50,
        lambda rows: rows.seconds("gae", "loop over steps") / rows.seconds("gae", f"{OURS}, with the call"),
    ),
    faster("gae [8192, 2048]", "gae [8192, 2048]", "rl-triton", 1.0),
    faster("gae [128, 4096]", "gae [128, 4096]", "rl-triton", 1.0),
    Target(HEAD, f"x the {BARE}", 1.15, lambda rows: rows.seconds(HEAD) / rows.seconds(HEAD, BARE), at_most=True),
    faster(HEAD, HEAD, "TRL chunked", 2.5),
    faster(HEAD, HEAD, "Liger FLCE", 2.5),
    Target(HEAD, "GiB of extra memory", 1.5, lambda rows: rows.value("extra_bytes", HEAD) / 2**30, at_most=True),
)


def judge(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [target.judge(Rows(rows)) for target in TARGETS]


def scalar(judged: Mapping[str, Any], key: str) -> str:
    return f"{100 * judged[key]:.3g} %" if judged["unit"] in PERCENT else f"{judged[key]:.3g}"


def bound(judged: Mapping[str, Any]) -> str:
    """
    Example:
        >>> bound({"at_most": True, "target": 0.28, "unit": "of the dense time"})
        'at most 28 % of the dense time'
    """
    return f"{'at most' if judged['at_most'] else 'at least'} {scalar(judged, 'target')} {judged['unit']}"


def line(judged: Mapping[str, Any]) -> str:
    """A value next to its target, for a terminal."""
    if "measured" not in judged:
        return f"{judged['work']}: {judged['missing']}; {bound(judged)}"
    met = "met" if judged["met"] else "NOT MET"
    return f"{judged['work']}: {scalar(judged, 'measured')}; {bound(judged)}: {met}"
