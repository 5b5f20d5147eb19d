"""`make gpu-check`, as far as it goes without a GPU: the rehearsal, the phases, and the figures from made-up rows."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import check, figures
from benchmarks.gpu.clock import CudaClock
from benchmarks.gpu.figures import OURS
from benchmarks.gpu.measure import FULL, GROUPS, Measurements, main, shape
from benchmarks.readme import replace_between

ROOT = Path(__file__).parent.parent


def test_rehearsal(tmp_path: Path) -> None:
    """The whole program, in a copy of the sources, so that what it writes can be seen."""
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "runs", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    readme = (copy / "README.md").read_text()
    done = subprocess.run(
        ["make", "gpu-check", "DRY=1", "VENV=none", f"PYTHON={sys.executable}"],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = copy / "build" / "gpu-check-rehearsal"
    results = json.loads((written / "rehearsal.json").read_text())
    assert [phase["name"] for phase in results["phases"]] == ["tests", *(f"measure {name}" for name in check.GROUPS)]
    assert {phase["outcome"] for phase in results["phases"]} == {"passed"}
    ours = [row["work"].partition(",")[0] for row in results["rows"] if row["implementation"] == OURS]
    assert [name.partition(" [")[0] for name in ours] == [
        *("log-probs + entropy", "log-probs", "segment", "segment", "segment", "gae", "linear_token_logprobs")
    ]
    assert all("seconds" in row for row in results["rows"] if row["implementation"].startswith((OURS, "eager", "loop")))
    assert "| segkernel, 25 % kept " in (written / "README.md").read_text()
    # Seconds of a rehearsal mean nothing, so they stay out of the project's files.
    assert (copy / "README.md").read_text() == readme
    assert not (copy / "benchmarks" / "results" / "rehearsal.json").exists()


def test_it_starts_before_anything_is_built() -> None:
    code = "import sys, benchmarks.gpu.check; print('segkernel' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_phases_end_in_time_and_say_how() -> None:
    python = sys.executable
    assert check.run(check.Phase("a", 60, (python, "-c", "print('fine')")))["outcome"] == "passed"
    failed = check.run(check.Phase("b", 60, (python, "-c", "import sys; print('why'); sys.exit(3)")))
    assert (failed["outcome"], failed["printed"]) == ("failed: exit status 3", "why\n")
    # A hanging phase ends with its children, which hold on to its output.
    hang = "import subprocess, time; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    started = time.monotonic()
    stopped = check.run(check.Phase("c", 2, (python, "-c", hang)))
    assert time.monotonic() - started < 30
    assert (stopped["outcome"], stopped["printed"]) == ("stopped after 2 s", "begun\n")
    assert check.run(check.Phase("d", 60, ("no-such-sanitizer", "x")))["outcome"].startswith("skipped: there is no no-")


def test_all_phases_fit_in_eight_minutes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    phases = list(check.phases(tmp_path, ["tests/test_gae.py"], rehearsing=False))
    assert sum(phase.limit for phase in phases) < 8 * 60
    by_name = {phase.name: phase for phase in phases}
    assert by_name["build"].environment["SEGKERNEL_CUDA_ARCHS"] == "9.0"
    assert by_name["tests"].environment["SEGKERNEL_TEST_DEVICE"] == "cuda"
    assert "tests/test_gae.py" in by_name["tests"].command
    assert by_name["racecheck"].command[:5] == ("compute-sanitizer", "--error-exitcode", "9", "--tool", "racecheck")


def test_what_fails_is_told_and_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> dict[str, float]:
        raise RuntimeError("no such instruction")

    def group(m: Measurements) -> None:
        m.row("work", "peer", fails)
        m.row("work", "absent peer", None)
        m.row("work", OURS, fails)
        m.row("work", "last", lambda: {"seconds": 1.0})

    output = tmp_path / "rows.json"
    monkeypatch.setitem(GROUPS, "gae", group)
    monkeypatch.setattr("sys.argv", ["measure", "gae", "--rehearse", "--output", str(output)])
    assert main() == 1  # it is our own that failed
    peer, absent, ours, last = json.loads(output.read_text())
    assert "no such instruction" in peer["missing"]
    assert absent["missing"] == "not installed"
    assert "no such instruction" in ours["failed"]
    assert last["seconds"] == 1.0
    monkeypatch.setitem(GROUPS, "gae", lambda m: m.row("work", "peer", fails))
    assert main() == 0


class FakeEvent:
    """Lets a call take as many milliseconds as it was given."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = FakeEvent.now

    def elapsed_time(self, end: "FakeEvent") -> float:
        return end.at - self.at


def test_the_clock_takes_medians_and_inputs_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.Event", FakeEvent)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    called = []

    def work(milliseconds: float) -> None:
        called.append(milliseconds)
        FakeEvent.now += milliseconds

    seconds = CudaClock().calls(work, [(2.0,), (9.0,), (3.0,)], repeats=6)
    assert called == [2.0, 9.0] + [2.0, 9.0, 3.0] * 2  # warm-up, then in turn
    assert seconds == pytest.approx(0.003)


FORWARD = f"log-probs + entropy, forward, {shape(FULL.logits)}"
BACKWARD = f"log-probs, forward + backward, {shape(FULL.logits)}"
HEAD = "linear_token_logprobs, forward + backward, N=8192, H=4096, V=151936"
ROWS = [
    {"work": "copy", "implementation": "torch", "bytes_per_second": 4e12},
    {"work": FORWARD, "implementation": OURS, "seconds": 1e-3, "bytes": 3.8e9},  # 95 % of the copy
    {"work": FORWARD, "implementation": f"{OURS}, 25 % kept", "seconds": 0.3e-3, "bytes": 9.5e8},
    {"work": FORWARD, "implementation": "TRL (Triton)", "seconds": 1.2e-3, "bytes": 3.8e9},
    {"work": BACKWARD, "implementation": OURS, "seconds": 2e-3, "bytes": 6e9},  # 75 %
    {"work": BACKWARD, "implementation": "Liger CE", "missing": "not installed"},
    {"work": "segment [64, 4096]", "implementation": OURS, "seconds": 11e-6, "bytes": 18 * 64 * 4096},
    {"work": HEAD, "implementation": "bare matrix products", "seconds": 0.04},
    {"work": HEAD, "implementation": OURS, "seconds": 0.05, "extra_bytes": 2**30},
]


def test_figures() -> None:
    judged = {(figure["work"], figure["unit"]): figure for figure in figures.judge(ROWS)}
    assert len(judged) == len(figures.FIGURES) == 15

    def measured(work: str, unit: str) -> tuple[float, bool]:
        figure = judged[work, unit]
        return round(figure["measured"], 6), figure["met"]

    assert measured("log-probs + entropy, forward", "of copy bandwidth") == (0.95, True)
    assert measured("log-probs + entropy, forward", "x faster than TRL (Triton)") == (1.2, True)
    assert measured("log-probs + entropy, forward, 25 % kept", "of the dense time") == (0.3, False)
    assert measured("log-probs, forward + backward, in place", "of copy bandwidth") == (0.75, False)
    assert measured("segment [64, 4096]", "µs") == (11.0, True)
    assert measured("linear_token_logprobs", "x the bare matrix products") == (1.25, True)
    assert measured("linear_token_logprobs", "GiB of extra memory") == (1.0, True)
    # A peer that is missing decides nothing.
    assert judged["log-probs, forward + backward, in place", "x faster than Liger CE"]["missing"] == (
        "Liger CE was not measured"
    )
    assert "met" not in judged["gae [64, 4096]", "x faster than loop over steps"]


def test_table(tmp_path: Path) -> None:
    machine = {"gpu": "NVIDIA H200", "python": "3.12.3", "torch": "2.11.0+cu130"}
    text = figures.table({"machine": machine, "rows": ROWS, "figures": figures.judge(ROWS)})
    assert text.startswith("NVIDIA H200; python 3.12.3, torch 2.11.0+cu130. ")
    assert "a copy moves 4000 GB/s." in text
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    assert ["log-probs + entropy, forward", "at least 92 % of copy bandwidth", "95 %", "yes"] in cells
    assert ["log-probs + entropy, forward, 25 % kept", "at most 28 % of the dense time", "30 %", "no"] in cells
    assert [FORWARD, "segkernel", "1 ms", "3800", "95 %", ""] in cells
    assert [HEAD, "segkernel", "50 ms", "", "", "1.00"] in cells
    assert text.endswith("Not installed, or not running there: Liger CE.")
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- gpu:begin -->\nnot measured yet\n<!-- gpu:end -->\nafter\n")
    replace_between(readme, figures.MARKS, text)
    assert readme.read_text() == f"before\n<!-- gpu:begin -->\n{text}\n<!-- gpu:end -->\nafter\n"


def test_the_readme_tells_of_measurements_or_of_none() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme.partition("<!-- gpu:begin -->\n")[2].partition("\n<!-- gpu:end -->")[0]
    results = [json.loads(path.read_text()) for path in (ROOT / "benchmarks" / "results").glob("*.json")]
    measured = [figures.table(result) for result in results if "figures" in result]
    assert table in (measured or ["not measured yet"])
