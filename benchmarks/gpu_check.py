"""Build, test, sanitize and measure on a GPU within 10 minutes: `make gpu-check`.

Each phase is a process with a time limit, and results are written after each, so that a hang or failure loses nothing
else. Output goes to `build/gpu-check-<gpu>/log.txt`. `--rehearse` runs the phases on the CPU, with small tensors and
without building. `--built` takes the libraries that are there, for a machine where they were built before.
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

from benchmarks import report, targets
from benchmarks.machine import installed_versions, slug
from benchmarks.report import PASSED
from build_support import cuda

ROOT = Path(__file__).parent.parent
# Seconds of each measured group.
GROUPS = {
    "bandwidth": 20,
    "token_logprobs": 40,
    "token_logprobs_backward": 35,
    "token_divergences": 25,
    "scaling": 15,
    "segment": 20,
    "select_tokens": 14,
    "scans": 12,
    "gae": 18,
    "credit": 15,
    "linear_token_logprobs": 35,
    "trl_steps": 25,
}
REHEARSAL_SHARE = 240
BUILD = "build"
# A stopped phase has flushed its output; Inductor compiles a handful of kernels without worker processes.
FOR_ALL = {"PYTHONUNBUFFERED": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
NEEDED = ("hypothesis", "numpy", "pybind11", "pytest", "scipy", "setuptools", "tabulate")
PEERS = ("trl", "liger-kernel", "cut-cross-entropy", "flash-attn", "quack-kernels", "rl-triton", "triton")


@dataclass(frozen=True)
class Phase:
    name: str
    share: int  # seconds of the 10 minutes; time that earlier phases leave over is added
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    rows: Path | None = None  # file of its measurements


def phases(folder: Path, operator_tests: list[str], *, rehearsing: bool, built: bool = False) -> Iterator[Phase]:
    python = sys.executable
    device = {"SEGKERNEL_TEST_DEVICE": "cpu" if rehearsing else "cuda", "OMP_NUM_THREADS": "1"}
    tests = (python, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider")
    short = (*tests, "tests/ops/test_cuda.py", "-k", "on_ragged_rows")
    if rehearsing:
        yield Phase("tests", REHEARSAL_SHARE, short, device)
    else:
        if not built:
            major, minor = torch.cuda.get_device_capability()
            switches = {
                "SEGKERNEL_CUDA": "1",
                "SEGKERNEL_CUDA_ARCHS": f"{major}.{minor}",
                "NVCC_APPEND_FLAGS": "-lineinfo",  # the sanitizer's reports name lines
            }
            yield Phase(BUILD, 140, (python, "setup.py", "-q", "build_ext", "--inplace"), switches)
        in_parallel = ("-n", "auto") if installed_versions("pytest-xdist") else ()
        show_hangs = ("-o", "faulthandler_timeout=60")  # stack traces in the log
        yield Phase("tests", 95, (*tests, *in_parallel, *show_hangs, *operator_tests), device)
        # Only our kernels: watching those of torch and cuBLAS is slow.
        sanitizer = (sanitizer_path(), "--error-exitcode", "9", "--kernel-name", "kernel_substring=segkernel")
        memcheck = (*sanitizer, "--tool", "memcheck", "--report-api-errors", "no", "--padding", "512")
        # Without torch's caching allocator, a read past a tensor's end is a read past an allocation.
        yield Phase("memcheck", 40, (*memcheck, *short), {**device, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
        yield Phase("racecheck", 40, (*sanitizer, "--tool", "racecheck", *short), device)
    for group, share in GROUPS.items():
        rows = folder / f"{group}.json"
        clock = "rehearsal" if rehearsing else "gpu"
        yield Phase(
            f"measure {group}",
            REHEARSAL_SHARE if rehearsing else share,
            (python, "-m", "benchmarks.measure", group, clock, "--output", str(rows)),
            rows=rows,
        )


def sanitizer_path() -> str:
    """Path of compute-sanitizer, on the PATH or next to an nvcc; only its name if it is in neither."""
    folders = [os.environ.get("PATH", ""), *(str(toolkit.home / "bin") for toolkit in cuda.toolkits())]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders)) or "compute-sanitizer"


def run(phase: Phase, limit: float, log: Path) -> dict[str, Any]:
    """Run a phase for at most `limit` seconds, append its output to `log`, and return its outcome."""
    if shutil.which(phase.command[0]) is None:
        return {"name": phase.name, "outcome": f"skipped: there is no {phase.command[0]}"}
    with log.open("ab") as output:
        output.write(f"\n=== {phase.name}: {' '.join(phase.command)}\n".encode())
        output.flush()
        begun = output.tell()
        started = time.monotonic()
        # Output goes to a file: a surviving child process would keep a pipe open.
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
    parser.add_argument("--built", action="store_true", help="do not build")
    parser.add_argument("--tests", default="", help="the files of the operators' tests")
    arguments = parser.parse_args()
    rehearsing = arguments.rehearse
    if missing := " ".join(name for name in NEEDED if importlib.util.find_spec(name) is None):
        print(f"segkernel: gpu-check needs more packages: `pip install {missing}`", file=sys.stderr)
        return 2
    if not rehearsing and not torch.cuda.is_available():
        print("segkernel: gpu-check needs a GPU and a torch built with CUDA", file=sys.stderr)
        return 2
    results: dict[str, Any] = {"machine": machine(rehearsing=rehearsing), "phases": [], "rows": []}
    name = slug(results["machine"]["gpu"])
    folder = ROOT / "build" / f"gpu-check-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started, allotted = time.monotonic(), 0
    for phase in phases(folder, arguments.tests.split(), rehearsing=rehearsing, built=arguments.built):
        allotted += phase.share
        ended = run(phase, started + allotted - time.monotonic(), folder / "log.txt")
        print(f"{phase.name}: {ended['outcome']} ({ended.get('seconds', 0)} s)", ended.pop("printed", ""), flush=True)
        results["phases"].append(ended)
        if phase.rows is not None and phase.rows.exists():
            results["rows"] += json.loads(phase.rows.read_text())
        results["targets"] = targets.judge(results["rows"])
        text = json.dumps(results, indent=1) + "\n"
        (folder / f"{name}.json").write_text(text)
        (folder / "report.md").write_text(report.gpu_text(results) + "\n")
        if not rehearsing and any("seconds" in row for row in results["rows"]):
            (report.RESULTS / f"{name}.json").write_text(text)
            report.write_gpu_table(report.stored_results())
        if phase.name == BUILD and ended["outcome"] != PASSED:
            break  # an earlier build must not pass for this one
    for judged in results["targets"]:
        print(targets.line(judged))
    return 0 if all(ended["outcome"].startswith((PASSED, "skipped")) for ended in results["phases"]) else 1


if __name__ == "__main__":
    sys.exit(main())
