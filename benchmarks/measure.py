"""One group of cases in a process of its own: `python -m benchmarks.measure GROUP CLOCK --output FILE`.

segkernel's results are checked on the inputs that are timed. Every row is written as soon as it is measured, so that a
later failure loses nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import ALL_GROUPS
from benchmarks.cases.case import Case
from benchmarks.clock_cpu import CpuClock
from benchmarks.clock_gpu import CudaClock, RehearsalClock
from benchmarks.targets import BARE, OURS

CLOCKS: dict[str, Any] = {"cpu": CpuClock, "gpu": CudaClock, "rehearsal": RehearsalClock}
# All other implementations are peers, which may be missing or fail.
REQUIRED = (OURS, BARE, "torch", "import")


class Rows:
    """Measured rows, written to a file after each addition."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.rows: list[dict[str, Any]] = []

    def add(self, case: Case, implementation: str, found: dict[str, Any] | Exception | str) -> None:
        row: dict[str, Any] = {"work": case.work, "implementation": implementation}
        if isinstance(found, dict):
            row |= found
            moved = case.bytes_of(implementation)
            row |= {} if moved is None else {"bytes": moved}
        elif isinstance(found, Exception) and implementation.startswith(REQUIRED) and implementation != "torch.compile":
            row["failed"] = repr(found)[:1000]
        else:
            row["missing"] = repr(found)[:1000] if isinstance(found, Exception) else found
        self.rows.append(row)
        partial = self.output.with_suffix(".part")  # renamed when whole
        partial.write_text(json.dumps(self.rows, indent=1) + "\n")
        partial.replace(self.output)


def measure(case: Case, clock: Any, rows: Rows) -> None:
    """Check segkernel's result, then time every implementation. A wrong result is not timed."""
    implementations = dict(case.implementations)
    gradients = case.caller_bytes is not None or "backward" in case.work
    try:
        case.check()
    except Exception as error:
        for name in [name for name in implementations if name.startswith(OURS)]:
            rows.add(case, name, error)
            del implementations[name]
    for name, function in implementations.items():
        if function is None:
            rows.add(case, name, "not installed")
    timed = {**case.__dict__, "implementations": implementations}
    with contextlib.nullcontext() if gradients else torch.no_grad():
        for name, found in clock.measure(Case(**timed)):
            rows.add(case, name, found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("group", choices=ALL_GROUPS)
    parser.add_argument("clock", choices=CLOCKS)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    clock, rows = CLOCKS[arguments.clock](), Rows(arguments.output)
    for case in ALL_GROUPS[arguments.group](clock.machine):
        measure(case, clock, rows)
    failed = [row for row in rows.rows if "failed" in row]
    for row in failed:
        print(f"{row['work']}, {row['implementation']}: {row['failed']}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
