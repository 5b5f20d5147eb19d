"""`make gpu-check`: builds for the card, tests, looks for bad memory accesses and races, measures, and writes it down.

Each phase is a process of its own with a time limit, and the results are written after each: what hangs or fails takes
nothing else away. What they print is in `build/gpu-check-<gpu>/log.txt`. `--rehearse` goes through the same phases on
the CPU, with small tensors and without building.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import figures
from benchmarks.gpu.figures import PASSED
from benchmarks.machine import installed_versions, slug
from benchmarks.pages import replace_between
from build_support import cuda

ROOT = Path(__file__).parent.parent.parent
GROUPS = {"bandwidth": 20, "forward": 45, "backward": 45, "segment": 25, "gae": 20, "linear": 45}
REHEARSAL_SHARE = 240
BUILD = "build"
# A phase that is stopped has printed all that it had to say; Inductor starts no processes for a handful of kernels.
FOR_ALL = {"PYTHONUNBUFFERED": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
NEEDED = ("hypothesis", "numpy", "pybind11", "pytest", "scipy", "setuptools", "tabulate")
PEERS = ("trl", "liger-kernel", "cut-cross-entropy", "flash-attn", "triton")


@dataclass(frozen=True)
class Phase:
    name: str
    share: int  # seconds of the 8 minutes; what earlier phases leave of theirs is added
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    rows: Path | None = None  # where it leaves its measurements


def phases(folder: Path, operator_tests: list[str], *, rehearsing: bool) -> Iterator[Phase]:
    python = sys.executable
    device = {"SEGKERNEL_TEST_DEVICE": "cpu" if rehearsing else "cuda", "OMP_NUM_THREADS": "1"}
    tests = (python, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider")
    short = (*tests, "tests/ops/test_cuda.py", "-k", "on_ragged_rows")
    if rehearsing:
        yield Phase("tests", REHEARSAL_SHARE, short, device)
    else:
        major, minor = torch.cuda.get_device_capability()
        switches = {
            "SEGKERNEL_CUDA": "1",
            "SEGKERNEL_CUDA_ARCHS": f"{major}.{minor}",
            "NVCC_APPEND_FLAGS": "-lineinfo",  # the sanitizer's reports name lines
        }
        yield Phase(BUILD, 75, (python, "setup.py", "-q", "build_ext", "--inplace"), switches)
        in_parallel = ("-n", "auto") if installed_versions("pytest-xdist") else ()
        whatever_hangs = ("-o", "faulthandler_timeout=60")  # is seen in the log
        yield Phase("tests", 110, (*tests, *in_parallel, *whatever_hangs, *operator_tests), device)
        # Our kernels alone: what torch, cuBLAS or the driver do is slow to watch, and not ours to judge.
        sanitizer = (sanitizer_path(), "--error-exitcode", "9", "--kernel-name", "kernel_substring=segkernel")
        memcheck = (*sanitizer, "--tool", "memcheck", "--report-api-errors", "no", "--padding", "512")
        # Without torch's cache of memory, a read past the end of a tensor is a read past an allocation.
        yield Phase("memcheck", 40, (*memcheck, *short), {**device, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
        yield Phase("racecheck", 40, (*sanitizer, "--tool", "racecheck", *short), device)
    for group, share in GROUPS.items():
        rows = folder / f"{group}.json"
        rehearse = ("--rehearse",) if rehearsing else ()
        yield Phase(
            f"measure {group}",
            REHEARSAL_SHARE if rehearsing else share,
            (python, "-m", "benchmarks.gpu.measure", group, "--output", str(rows), *rehearse),
            rows=rows,
        )


def sanitizer_path() -> str:
    """On the PATH or beside an nvcc; its mere name where it is in neither."""
    folders = [os.environ.get("PATH", ""), *(str(toolkit.home / "bin") for toolkit in cuda.toolkits())]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders)) or "compute-sanitizer"


def run(phase: Phase, limit: float, log: Path) -> dict[str, Any]:
    """Runs a phase for `limit` seconds at most, appends what it prints to `log`, and returns how it ended."""
    if shutil.which(phase.command[0]) is None:
        return {"name": phase.name, "outcome": f"skipped: there is no {phase.command[0]}"}
    with log.open("ab") as output:
        output.write(f"\n=== {phase.name}: {' '.join(phase.command)}\n".encode())
        output.flush()
        begun = output.tell()
        started = time.monotonic()
        # Into a file: whoever is left of its children must not keep us waiting for the end of a pipe.
        process = subprocess.Popen(
            phase.command,
            cwd=ROOT,
            env={**os.environ, **FOR_ALL, **phase.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that its children end with it
        )
        try:
            status = process.wait(limit)
            outcome = PASSED if status == 0 else f"failed: exit status {status}"
        except subprocess.TimeoutExpired:
            outcome = f"stopped after {limit:.0f} s"
        finally:
            end(process)
    ended = {"name": phase.name, "outcome": outcome, "seconds": round(time.monotonic() - started, 1)}
    if outcome == PASSED:
        return ended
    return {**ended, "printed": log.read_bytes()[begun:].decode(errors="replace")[-4000:]}


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of a process and its children. One that the driver holds on to is not waited for."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)


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
    if missing := " ".join(name for name in NEEDED if importlib.util.find_spec(name) is None):
        print(f"segkernel: gpu-check needs what is not installed here: `pip install {missing}`", file=sys.stderr)
        return 2
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
    started, allotted = time.monotonic(), 0
    for phase in phases(folder, arguments.tests.split(), rehearsing=rehearsing):
        allotted += phase.share
        ended = run(phase, started + allotted - time.monotonic(), folder / "log.txt")
        print(f"{phase.name}: {ended['outcome']} ({ended.get('seconds', 0)} s)", ended.pop("printed", ""), flush=True)
        results["phases"].append(ended)
        if phase.rows is not None and phase.rows.exists():
            results["rows"] += json.loads(phase.rows.read_text())
        results["figures"] = figures.judge(results["rows"])
        text = json.dumps(results, indent=1) + "\n"
        (folder / f"{name}.json").write_text(text)
        if any("seconds" in row for row in results["rows"]):  # the project's files change together
            (output / f"{name}.json").write_text(text)
            replace_between(readme, figures.MARKS, figures.table(results))
        if phase.name == BUILD and ended["outcome"] != PASSED:
            break  # an earlier build must not pass for this one
    for figure in results["figures"]:
        print(figures.line(figure))
    return 0 if all(ended["outcome"].startswith((PASSED, "skipped")) for ended in results["phases"]) else 1


if __name__ == "__main__":
    sys.exit(main())
