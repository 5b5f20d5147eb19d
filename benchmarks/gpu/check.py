"""`make gpu-check`: builds for the card, tests, looks for bad memory accesses and races, measures, and writes it down.

Each phase is a process of its own with a time limit, and the results are written after each: what hangs or fails takes
nothing else away. `--rehearse` goes through the same phases on the CPU, with small tensors and without building.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import figures
from benchmarks.machine import installed_versions, slug
from benchmarks.readme import replace_between

ROOT = Path(__file__).parent.parent.parent
GROUPS = {"bandwidth": 10, "forward": 40, "backward": 40, "segment": 25, "gae": 20, "linear": 40}
REHEARSAL_LIMIT = 240
PEERS = ("trl", "liger-kernel", "cut-cross-entropy", "flash-attn", "triton")


@dataclass(frozen=True)
class Phase:
    name: str
    limit: int  # seconds; together under 8 minutes
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    rows: Path | None = None  # where it leaves its measurements


def phases(folder: Path, operator_tests: list[str], *, rehearsing: bool) -> Iterator[Phase]:
    python = sys.executable
    device = {"SEGKERNEL_TEST_DEVICE": "cpu" if rehearsing else "cuda", "OMP_NUM_THREADS": "1"}
    tests = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    short = (*tests, "tests/test_cuda.py", "-k", "on_ragged_rows")
    if rehearsing:
        yield Phase("tests", REHEARSAL_LIMIT, short, device)
    else:
        major, minor = torch.cuda.get_device_capability()
        switches = {
            "SEGKERNEL_CUDA": "1",
            "SEGKERNEL_CUDA_ARCHS": f"{major}.{minor}",
            "NVCC_APPEND_FLAGS": "-lineinfo",  # the sanitizer's reports name lines
        }
        yield Phase("build", 80, (python, "setup.py", "-q", "build_ext", "--inplace"), switches)
        in_parallel = ("-n", "auto") if installed_versions("pytest-xdist") else ()
        yield Phase("tests", 120, (*tests, *in_parallel, *operator_tests), device)
        sanitizer = ("compute-sanitizer", "--error-exitcode", "9", "--tool")
        # Without torch's cache of memory, a read past the end of a tensor is a read past an allocation.
        uncached = {**device, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        yield Phase("memcheck", 50, (*sanitizer, "memcheck", *short), uncached)
        yield Phase("racecheck", 50, (*sanitizer, "racecheck", *short), device)
    for group, limit in GROUPS.items():
        rows = folder / f"{group}.json"
        rehearse = ("--rehearse",) if rehearsing else ()
        yield Phase(
            f"measure {group}",
            REHEARSAL_LIMIT if rehearsing else limit,
            (python, "-m", "benchmarks.gpu.measure", group, "--output", str(rows), *rehearse),
            rows=rows,
        )


def run(phase: Phase) -> dict[str, Any]:
    """Runs a phase and returns how it ended."""
    if shutil.which(phase.command[0]) is None:
        return {"name": phase.name, "outcome": f"skipped: there is no {phase.command[0]}"}
    started = time.monotonic()
    process = subprocess.Popen(
        phase.command,
        cwd=ROOT,
        env={**os.environ, **phase.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that its children end with it
    )
    try:
        printed, _ = process.communicate(timeout=phase.limit)
        outcome = "passed" if process.returncode == 0 else f"failed: exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        outcome = f"stopped after {phase.limit} s"
    ended = {"name": phase.name, "outcome": outcome, "seconds": round(time.monotonic() - started, 1)}
    return ended if outcome == "passed" else {**ended, "printed": printed[-4000:]}


def machine(*, rehearsing: bool) -> dict[str, str]:
    return {
        "gpu": "rehearsal" if rehearsing else torch.cuda.get_device_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **installed_versions(*PEERS),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--tests", default="", help="the files of the operators' tests")
    arguments = parser.parse_args()
    rehearsing = arguments.rehearse
    if not rehearsing and not torch.cuda.is_available():
        print("segkernel: gpu-check needs a GPU and a torch built with CUDA", file=sys.stderr)
        return 2
    results: dict[str, Any] = {"machine": machine(rehearsing=rehearsing), "phases": [], "rows": []}
    name = slug(results["machine"]["gpu"])
    folder = ROOT / "build" / f"gpu-check-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    output, readme = ROOT / "benchmarks" / "results", ROOT / "README.md"
    if rehearsing:  # leaves nothing behind but what is in its folder
        output, readme = folder, Path(shutil.copy(readme, folder))
    for phase in phases(folder, arguments.tests.split(), rehearsing=rehearsing):
        ended = run(phase)
        print(f"{phase.name}: {ended['outcome']} ({ended.get('seconds', 0)} s)", ended.get("printed", ""), flush=True)
        results["phases"].append(ended)
        if phase.rows is not None and phase.rows.exists():
            results["rows"] += json.loads(phase.rows.read_text())
        results["figures"] = figures.judge(results["rows"])
        (output / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
        if any("seconds" in row for row in results["rows"]):
            replace_between(readme, figures.MARKS, figures.table(results))
    for figure in results["figures"]:
        value = figures.number(figure, "measured") if "measured" in figure else f"({figure['missing']})"
        print(f"{figure['work']}: {value}, target {figures.number(figure, 'target')} {figure['unit']}")
    return 0 if all(ended["outcome"].startswith(("passed", "skipped")) for ended in results["phases"]) else 1


if __name__ == "__main__":
    sys.exit(main())
