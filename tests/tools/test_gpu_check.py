"""`make gpu-check`, as far as it goes without a GPU: the rehearsal, the phases, and the figures from made-up rows."""

import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import segkernel
from benchmarks.gpu import check, figures
from benchmarks.gpu.clock import CudaClock
from benchmarks.gpu.figures import OURS
from benchmarks.gpu.measure import FULL, GROUPS, Measurements, main, shape
from benchmarks.pages import replace_between
from build_support.cuda import Toolkit

ROOT = Path(__file__).parents[2]


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


def test_it_says_first_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(check, "NEEDED", ("pytest", "no_such_package", "nor_this"))
    monkeypatch.setattr("sys.argv", ["check"])
    assert check.main() == 2
    assert "`pip install no_such_package nor_this`" in capsys.readouterr().err


def test_phases_end_in_time_and_say_how(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"

    def run(*command: str, limit: float = 60) -> tuple[str, str]:
        ended = check.run(check.Phase("a", 60, command), limit, log)
        return ended["outcome"], ended.get("printed", "")

    python = sys.executable
    assert run(python, "-c", "print('fine')") == ("passed", "")
    assert run(python, "-c", "import sys; print('why'); sys.exit(3)") == ("failed: exit status 3", "why\n")
    # A hanging phase ends with its children. One that is out of reach holds on to the output, and is not waited for.
    started = time.monotonic()
    for child in ("['sleep', '60']", "['setsid', 'sleep', '20']"):
        hang = f"import subprocess; print('begun'); subprocess.run({child})"
        assert run(python, "-c", hang, limit=2) == ("stopped after 2 s", "begun\n")
    assert time.monotonic() - started < 15
    assert run("no-such-sanitizer", "x")[0].startswith("skipped: there is no no-such-sanitizer")
    assert [line for line in log.read_text().splitlines() if line and "===" not in line] == [
        *("fine", "why", "begun", "begun")
    ]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the phases look at one."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))


@pytest.mark.usefixtures("gpu")
def test_all_phases_fit_in_eight_minutes(tmp_path: Path) -> None:
    phases = list(check.phases(tmp_path, ["tests/ops/test_gae.py"], rehearsing=False))
    assert sum(phase.share for phase in phases) < 8 * 60 - 10
    by_name = {phase.name: phase for phase in phases}
    assert by_name["build"].environment["SEGKERNEL_CUDA_ARCHS"] == "9.0"
    assert by_name["tests"].environment["SEGKERNEL_TEST_DEVICE"] == "cuda"
    assert "tests/ops/test_gae.py" in by_name["tests"].command
    for tool in ("memcheck", "racecheck"):
        assert by_name[tool].command[0].endswith("compute-sanitizer")
        assert by_name[tool].command[1:3] == ("--error-exitcode", "9")
        assert by_name[tool].command[by_name[tool].command.index("--tool") + 1] == tool
        assert by_name[tool].environment["SEGKERNEL_TEST_DEVICE"] == "cuda"


def test_the_sanitizer_may_be_beside_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc, sanitizer = (tmp_path / "bin" / name for name in ("nvcc", "compute-sanitizer"))
    monkeypatch.setattr("build_support.cuda.toolkits", lambda: iter([Toolkit(nvcc, "13.0")]))
    monkeypatch.setenv("PATH", "")
    assert check.sanitizer_path() == "compute-sanitizer"
    sanitizer.parent.mkdir()
    sanitizer.touch(0o755)
    assert check.sanitizer_path() == str(sanitizer)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of nothing but a README and a place for results."""
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "README.md").write_text("before\n<!-- gpu:begin -->\nnot measured yet\n<!-- gpu:end -->\nafter\n")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["check"])
    return tmp_path


@pytest.mark.usefixtures("gpu")
def test_what_a_phase_leaves_is_the_next_ones(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def run(phase: check.Phase, limit: float, log: Path) -> dict[str, str]:
        limits.append(limit)
        return {"name": phase.name, "outcome": "passed"}

    monkeypatch.setattr(check, "run", run)
    monkeypatch.setattr(check, "phases", lambda *_, **__: [check.Phase(name, 50, ()) for name in "abc"])
    assert check.main() == 0
    assert limits == pytest.approx([50, 100, 150], abs=5)


@pytest.mark.usefixtures("gpu")
def test_what_is_measured_is_written_though_tests_fail(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = project / "rows.json"
    measure = f"import pathlib; pathlib.Path({str(rows)!r}).write_text({json.dumps(json.dumps(ROWS))})"
    monkeypatch.setattr(
        check,
        "phases",
        lambda *_, **__: [
            check.Phase("build", 50, (sys.executable, "-c", "")),
            check.Phase("tests", 50, (sys.executable, "-c", "import sys; sys.exit(1)")),
            check.Phase("measure", 50, (sys.executable, "-c", measure), rows=rows),
        ],
    )
    assert check.main() == 1
    results = json.loads((project / "benchmarks" / "results" / "nvidia-h200.json").read_text())
    assert results["rows"] == ROWS
    readme = (project / "README.md").read_text()
    assert "\n\nOf the same run did not pass: tests (failed: exit status 1).\n<!-- gpu:end -->" in readme


@pytest.mark.usefixtures("gpu")
def test_nothing_is_measured_of_an_earlier_build(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = (sys.executable, "-c", "import sys; sys.exit('no compiler')")
    monkeypatch.setattr(check, "phases", lambda *_, **__: [check.Phase(name, 50, fails) for name in ("build", "tests")])
    assert check.main() == 1
    assert "no compiler\n" in capsys.readouterr().out
    results = json.loads((project / "build" / "gpu-check-nvidia-h200" / "nvidia-h200.json").read_text())
    assert [(phase["name"], phase["outcome"]) for phase in results["phases"]] == [("build", "failed: exit status 1")]
    # What an earlier run has measured stays.
    assert not list((project / "benchmarks" / "results").iterdir())
    assert "\nnot measured yet\n" in (project / "README.md").read_text()


def test_what_fails_is_told_and_takes_nothing_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> dict[str, float]:
        raise RuntimeError("no such instruction")

    def group(m: Measurements) -> None:
        m.peer("work", "peer", fails, lambda function: function())
        m.peer("work", "absent peer", None, fails)
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
    monkeypatch.setitem(GROUPS, "gae", lambda m: m.peer("work", "peer", fails, lambda function: function()))
    assert main() == 0


def spoilt(operator: Callable[..., Any]) -> Callable[..., Any]:
    """Wrong in the last of what it returns, by a ten-thousandth or more."""

    def call(*args: Any, **kwargs: Any) -> Any:
        outputs = operator(*args, **kwargs)
        if isinstance(outputs, torch.Tensor):
            return 1.02 * outputs
        *others, last = outputs
        return (*others, ~last if last.dtype is torch.bool else 1.001 * last)

    return call


@pytest.mark.parametrize(
    ("group", "operator"),
    [
        ("forward", "token_logprobs"),
        ("backward", "token_logprobs"),
        ("segment", "segment"),
        ("gae", "gae"),
        ("linear", "linear_token_logprobs"),
    ],
)
def test_what_returns_something_else_is_not_timed(
    group: str, operator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(segkernel, operator)
    # Once only: the truth of the scans is the CPU's, which is what the rehearsal runs on.
    calls = itertools.chain([spoilt(original)], itertools.repeat(original))
    monkeypatch.setattr(segkernel, operator, lambda *args, **kwargs: next(calls)(*args, **kwargs))
    output = tmp_path / "rows.json"
    monkeypatch.setattr("sys.argv", ["measure", group, "--rehearse", "--output", str(output)])
    assert main() == 1
    ours = next(row for row in json.loads(output.read_text()) if row["implementation"] == OURS)
    assert "seconds" not in ours
    assert "AssertionError" in ours["failed"]


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
    # What comes before each call is not timed.
    called.clear()
    seconds = CudaClock().calls(work, [(2.0,)], repeats=2, before=lambda: work(7.0))
    assert called == [7.0, 2.0] * 3
    assert seconds == pytest.approx(0.002)


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
    {"work": "gae [64, 4096]", "implementation": OURS, "seconds": 5e-6},
    {"work": "gae [64, 4096]", "implementation": f"{OURS}, with the call", "seconds": 2e-5},
    {"work": "gae [64, 4096]", "implementation": "loop over steps", "seconds": 0.1},
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
    assert measured("gae [64, 4096]", "x faster than loop over steps") == (5000, True)
    assert measured("linear_token_logprobs", "x the bare matrix products") == (1.25, True)
    assert measured("linear_token_logprobs", "GiB of extra memory") == (1.0, True)
    # A peer that is missing decides nothing.
    assert judged["log-probs, forward + backward, in place", "x faster than Liger CE"]["missing"] == (
        "Liger CE was not measured"
    )
    assert "met" not in judged["segment [64, 4096]", "x faster than vectorised torch"]


def test_table(tmp_path: Path) -> None:
    machine = {"gpu": "NVIDIA H200", "python": "3.12.3", "torch": "2.11.0+cu130"}
    phases = [{"name": "tests", "outcome": "passed"}]
    text = figures.table({"machine": machine, "phases": phases, "rows": ROWS, "figures": figures.judge(ROWS)})
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
