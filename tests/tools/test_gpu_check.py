"""`make gpu-check` without a GPU: the rehearsal, the phases, and the targets from made-up rows."""

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
from benchmarks import gpu_check as check
from benchmarks import report, targets
from benchmarks.cases import ALL_GROUPS
from benchmarks.cases.case import Case, shape
from benchmarks.cases.machine import GPU
from benchmarks.clock_cpu import CpuClock
from benchmarks.clock_gpu import CudaClock
from benchmarks.measure import main
from benchmarks.pages import replace_between
from benchmarks.targets import OURS
from build_support.cuda import Toolkit

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_rehearsal_runs_every_phase_and_leaves_the_pages_alone(tmp_path: Path) -> None:
    """The whole program, in a copy of the sources, so that everything it writes can be seen."""
    copy = tmp_path / "copy"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "runs", "__pycache__")
    shutil.copytree(ROOT, copy, ignore=ignored)
    before = {path: path.read_bytes() for path in copy.rglob("*.md")} | {
        path: path.read_bytes() for path in (copy / "benchmarks" / "results").glob("*.json")
    }
    done = subprocess.run(
        ["make", "gpu-check", "DRY=1", "VENV=none", f"PYTHON={sys.executable}"],
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
    )
    written = copy / "build" / "gpu-check-rehearsal"
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((written / "rehearsal.json").read_text())
    assert [phase["name"] for phase in results["phases"]] == ["tests", *(f"measure {name}" for name in check.GROUPS)]
    assert {phase["outcome"] for phase in results["phases"]} == {"passed"}
    ours = [row["work"] for row in results["rows"] if row["implementation"] == OURS]
    assert [name.partition(" [")[0].partition(" N=")[0] for name in ours] == [
        "token_logprobs + entropy, forward, bf16",
        "token_logprobs + all outputs, forward, bf16",
        "token_logprobs of 16 labels, forward, bf16",
        "token_logprobs + entropy, softcap, forward, bf16",
        "token_logprobs + entropy of two shards, forward, bf16",
        f"{targets.FEW}: 32 of 128 kept, bf16 V=130",
        f"{targets.FEW}: 16 of 64 kept, bf16 V=130",
        "token_logprobs, forward + backward, bf16",
        f"{targets.FEW_BACKWARD}: 32, bf16 V=130",
        *(f"token_divergences, {kind}, forward, bf16" for kind in ("kl", "js", "tv")),
        "token_divergences, kl, forward + backward, bf16",
        "token_divergences, kl, few rows: 16 of 64 kept, bf16 V=130",
        "topk_divergence, kl, K=64, forward, bf16",
        "token_divergences, kl, of two heads, forward + backward, bf16",
        *(f"{series}: token_logprobs + entropy, bf16" for series in ("by share",) * 6 + ("by tokens",) * 3),
        *("by vocabulary: token_logprobs + entropy, bf16",) * 3,
        *("segment", "segment", "segment", "select_tokens", "select_tokens", "select_tokens"),
        *("hysteresis", "redistribute", "segment_by_entropy", "discounted_sum"),
        *("gae", "gae", "discounted_sum", "segment_by_mask", "group_normalize", "importance_weights, per sequence"),
        "linear_token_logprobs, forward + backward, bf16",
        *(
            f"TRL {trainer} step, {share} of completion tokens, bf16"
            for trainer in ("DPO", "GRPO", "SFT")
            for share in ("100%", "25%")
        ),
    ]
    steps = [row for row in results["rows"] if row["work"].startswith("TRL")]
    assert [row["implementation"] for row in steps] == [OURS, "TRL", "without the LM head"] * 6
    required = [row for row in results["rows"] if row["implementation"].startswith((OURS, "eager", "loop"))]
    # The copy is without the packages of `make peers`.
    assert all("seconds" in row or (row in steps and row.get("missing") == "not installed") for row in required)
    assert "| segkernel, 25 % kept " in (written / "report.md").read_text()
    # Seconds of a rehearsal mean nothing, so the project's own files stay as they were.
    assert {path: path.read_bytes() for path in before} == before
    assert not (copy / "benchmarks" / "results" / "rehearsal.json").exists()


def test_check_imports_no_segkernel() -> None:
    code = "import sys, benchmarks.gpu_check; print('segkernel' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_check_names_missing_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(check, "NEEDED", ("pytest", "no_such_package", "nor_this"))
    monkeypatch.setattr("sys.argv", ["check"])
    assert check.main() == 2
    assert "`pip install no_such_package nor_this`" in capsys.readouterr().err


@pytest.mark.slow
def test_run_stops_phases_in_time_and_reports_the_outcome(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"

    def run(*command: str, limit: float = 60) -> tuple[str, str]:
        ended = check.run(check.Phase("a", 60, command), limit, log)
        return ended["outcome"], ended.get("printed", "")

    python = sys.executable
    assert run(python, "-c", "print('fine')") == ("passed", "")
    assert run(python, "-c", "import sys; print('why'); sys.exit(3)") == ("failed: exit status 3", "why\n")
    # A hanging phase ends with its children. A child in its own session keeps the output open, unawaited.
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
    """A fake GPU, as far as the phases look at it."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))


@pytest.mark.usefixtures("gpu")
def test_phases_fit_in_ten_minutes(tmp_path: Path) -> None:
    phases = list(check.phases(tmp_path, ["tests/ops/test_gae.py"], rehearsing=False))
    assert sum(phase.share for phase in phases) < 10 * 60 - 10
    of_built = check.phases(tmp_path, ["tests/ops/test_gae.py"], rehearsing=False, built=True)
    assert [phase.name for phase in of_built] == [phase.name for phase in phases if phase.name != "build"]
    by_name = {phase.name: phase for phase in phases}
    assert by_name["build"].environment["SEGKERNEL_CUDA_ARCHS"] == "9.0"
    assert by_name["tests"].environment["SEGKERNEL_TEST_DEVICE"] == "cuda"
    assert "tests/ops/test_gae.py" in by_name["tests"].command
    for tool in ("memcheck", "racecheck"):
        assert by_name[tool].command[0].endswith("compute-sanitizer")
        assert by_name[tool].command[1:3] == ("--error-exitcode", "9")
        assert by_name[tool].command[by_name[tool].command.index("--tool") + 1] == tool
        assert by_name[tool].environment["SEGKERNEL_TEST_DEVICE"] == "cuda"


def test_sanitizer_next_to_nvcc_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvcc, sanitizer = (tmp_path / "bin" / name for name in ("nvcc", "compute-sanitizer"))
    monkeypatch.setattr("build_support.cuda.toolkits", lambda: iter([Toolkit(nvcc, "13.0")]))
    monkeypatch.setenv("PATH", "")
    assert check.sanitizer_path() == "compute-sanitizer"
    sanitizer.parent.mkdir()
    sanitizer.touch(0o755)
    assert check.sanitizer_path() == str(sanitizer)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with only the page and a folder for results."""
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    page = tmp_path / "benchmarks.md"
    page.write_text("before\n<!-- gpu:begin -->\nnot measured yet\n<!-- gpu:end -->\nafter\n")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(report, "RESULTS", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["check"])
    return tmp_path


@pytest.mark.usefixtures("gpu")
def test_time_left_over_extends_later_phases(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def run(phase: check.Phase, limit: float, log: Path) -> dict[str, str]:
        limits.append(limit)
        return {"name": phase.name, "outcome": "passed"}

    monkeypatch.setattr(check, "run", run)
    monkeypatch.setattr(check, "phases", lambda *_, **__: [check.Phase(name, 50, ()) for name in "abc"])
    assert check.main() == 0
    assert limits == pytest.approx([50, 100, 150], abs=5)


@pytest.mark.usefixtures("gpu")
def test_measurements_are_written_although_tests_fail(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    page = (project / "benchmarks.md").read_text()
    assert "\n\nPhases of this run that did not pass: tests (failed: exit status 1).\n<!-- gpu:end -->" in page


@pytest.mark.usefixtures("gpu")
def test_failed_build_ends_the_check(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = (sys.executable, "-c", "import sys; sys.exit('no compiler')")
    monkeypatch.setattr(check, "phases", lambda *_, **__: [check.Phase(name, 50, fails) for name in ("build", "tests")])
    assert check.main() == 1
    assert "no compiler\n" in capsys.readouterr().out
    results = json.loads((project / "build" / "gpu-check-nvidia-h200" / "nvidia-h200.json").read_text())
    assert [(phase["name"], phase["outcome"]) for phase in results["phases"]] == [("build", "failed: exit status 1")]
    # The results of an earlier run are kept.
    assert not list((project / "benchmarks" / "results").iterdir())
    assert "\nnot measured yet\n" in (project / "benchmarks.md").read_text()


def test_failing_implementations_are_reported_and_the_others_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> None:
        raise RuntimeError("no such instruction")

    case = Case("work", {"peer": fails, "absent peer": None, OURS: fails, "last": lambda: None})
    output = tmp_path / "rows.json"
    monkeypatch.setitem(ALL_GROUPS, "gae", lambda machine: [case])
    monkeypatch.setattr("sys.argv", ["measure", "gae", "rehearsal", "--output", str(output)])
    assert main() == 1  # segkernel itself failed
    rows = {row["implementation"]: row for row in json.loads(output.read_text())}
    assert "no such instruction" in rows["peer"]["missing"]
    assert rows["absent peer"]["missing"] == "not installed"
    assert "no such instruction" in rows[OURS]["failed"]
    assert rows["last"]["seconds"] >= 0.0
    monkeypatch.setitem(ALL_GROUPS, "gae", lambda machine: [Case("work", {"peer": fails})])
    assert main() == 0


@pytest.mark.parametrize("clock", ["cpu", "rehearsal"])
def test_measure_rows_of_a_case(clock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restored = []
    case = Case(
        "work",
        {OURS: lambda x: x + 1, f"{OURS}, 25 % kept": lambda x: x, "peer": lambda x: x * 2},
        [(torch.zeros(8),)],
        {"": 64, f"{OURS}, 25 % kept": 16},
        before=lambda: restored.append(1),
        caller_bytes=0,
    )
    output = tmp_path / "rows.json"
    monkeypatch.setattr("benchmarks.clock_cpu.SECONDS_PER_TURN", 0.001)
    monkeypatch.setitem(ALL_GROUPS, "gae", lambda machine: [case])
    monkeypatch.setattr("sys.argv", ["measure", "gae", clock, "--output", str(output)])
    assert main() == 0
    rows = json.loads(output.read_text())
    assert [(row["implementation"], row["bytes"]) for row in rows] == [
        (OURS, 64),
        (f"{OURS}, 25 % kept", 16),
        ("peer", 64),
    ]
    assert all(row["seconds"] > 0 and row["extra_bytes"] >= 0 for row in rows)
    assert len(restored) >= 6


def test_cpu_clock_times_slow_calls_in_one_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    implementations = {name: lambda name=name: calls.append(name) for name in ("slow", "other")}
    monkeypatch.setattr("benchmarks.clock_cpu.SECONDS_PER_TURN", 0.0)
    monkeypatch.setattr("benchmarks.clock_cpu.CpuClock._turn", lambda self, case, call: [call() or 21.0 - len(calls)])
    assert dict(CpuClock(turns=3).measure(Case("work", implementations))).keys() == {"slow", "other"}
    assert calls == ["slow", "other", "slow", "other", "slow", "other"]
    calls.clear()
    monkeypatch.setattr("benchmarks.clock_cpu.CpuClock._turn", lambda self, case, call: [call() or 22.0 - len(calls)])
    dict(CpuClock(turns=3).measure(Case("work", implementations)))
    assert calls == ["slow", "other", "other", "other"]


def spoilt(operator: Callable[..., Any]) -> Callable[..., Any]:
    """The operator with a wrong last output."""

    def call(*args: Any, **kwargs: Any) -> Any:
        outputs = operator(*args, **kwargs)
        if isinstance(outputs, torch.Tensor):
            return 1.02 * outputs
        if isinstance(outputs, segkernel.TokenDivergences):
            return outputs._replace(divergence=1.02 * outputs.divergence)
        *others, last = outputs
        return (*others, ~last if last.dtype is torch.bool else 1.001 * last)

    return call


@pytest.mark.parametrize(
    ("group", "operator"),
    [
        ("token_logprobs", "token_logprobs"),
        ("token_logprobs_backward", "token_logprobs"),
        ("token_divergences", "token_divergences"),
        ("segment", "segment"),
        ("select_tokens", "select_tokens"),
        ("gae", "gae"),
        ("scans", "hysteresis"),
        ("linear_token_logprobs", "linear_token_logprobs"),
    ],
)
def test_wrong_result_is_not_timed(group: str, operator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = getattr(segkernel, operator)
    # Only the first call: the reference of the scans is the CPU, which the rehearsal runs on.
    calls = itertools.chain([spoilt(original)], itertools.repeat(original))
    monkeypatch.setattr(segkernel, operator, lambda *args, **kwargs: next(calls)(*args, **kwargs))
    output = tmp_path / "rows.json"
    monkeypatch.setattr("sys.argv", ["measure", group, "rehearsal", "--output", str(output)])
    assert main() == 1
    ours = next(row for row in json.loads(output.read_text()) if row["implementation"] == OURS)
    assert "seconds" not in ours
    assert "AssertionError" in ours["failed"]


class FakeEvent:
    """Event on a fake clock."""

    now = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at = FakeEvent.now

    def elapsed_time(self, end: "FakeEvent") -> float:
        return end.at - self.at


def test_cuda_clock_takes_medians_and_rotates_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.Event", FakeEvent)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    called = []

    def work(milliseconds: float) -> None:
        called.append(milliseconds)
        FakeEvent.now += milliseconds

    seconds = CudaClock().calls(work, [(2.0,), (9.0,), (3.0,)], repeats=6)
    assert called == [2.0, 9.0] + [2.0, 9.0, 3.0] * 2  # warm-up, then in turn
    assert seconds == pytest.approx(0.003)
    # `before` is not timed.
    called.clear()
    seconds = CudaClock().calls(work, [(2.0,)], repeats=2, before=lambda: work(7.0))
    assert called == [7.0, 2.0] * 3
    assert seconds == pytest.approx(0.002)


FORWARD = f"token_logprobs + entropy, forward, bf16 {shape(GPU.logits)}"
BACKWARD = f"token_logprobs, forward + backward, bf16 {shape(GPU.logits)}"
HEAD = "linear_token_logprobs, forward + backward, bf16 N=8192, H=4096, V=151936"
ROWS = [
    {"work": "copy", "implementation": "torch", "seconds": 1e-3, "bytes": 4e9},
    {"work": FORWARD, "implementation": OURS, "seconds": 1e-3, "bytes": 3.8e9},  # 95 % of the copy
    {"work": FORWARD, "implementation": f"{OURS}, 25 % kept", "seconds": 0.3e-3, "bytes": 9.5e8},
    {"work": FORWARD, "implementation": "TRL (Triton)", "seconds": 1.2e-3, "bytes": 3.8e9},
    {"work": f"{targets.FEW}: 128 of 512 kept", "implementation": OURS, "seconds": 1e-5, "bytes": 3.42e7},  # 90 % of it
    {"work": BACKWARD, "implementation": OURS, "seconds": 2e-3, "bytes": 6e9},  # 75 %
    {"work": f"{targets.FEW_BACKWARD}: 128", "implementation": OURS, "seconds": 3e-5, "bytes": 7.2e7},  # 80 % of it
    {"work": BACKWARD, "implementation": "Liger CE", "missing": "not installed"},
    {"work": "segment [64, 4096]", "implementation": OURS, "seconds": 11e-6, "bytes": 18 * 64 * 4096},
    {"work": "gae [64, 4096]", "implementation": OURS, "seconds": 5e-6},
    {"work": "gae [64, 4096]", "implementation": f"{OURS}, with the call", "seconds": 2e-5},
    {"work": "gae [64, 4096]", "implementation": "loop over steps", "seconds": 0.1},
    {"work": HEAD, "implementation": "bare matrix products", "seconds": 0.04},
    {"work": HEAD, "implementation": OURS, "seconds": 0.05, "extra_bytes": 2**30},
]


def test_targets_literals() -> None:
    judged = {(figure["work"], figure["unit"]): figure for figure in targets.judge(ROWS)}
    assert len(judged) == len(targets.TARGETS) == 22

    def measured(work: str, unit: str) -> tuple[float, bool]:
        figure = judged[work, unit]
        return round(figure["measured"], 6), figure["met"]

    assert measured("token_logprobs + entropy, forward", "of copy bandwidth") == (0.95, True)
    assert measured("token_logprobs + entropy, forward", "x faster than TRL (Triton)") == (1.2, True)
    assert measured("token_logprobs + entropy, forward, 25 % kept", "of the dense time") == (0.3, False)
    assert measured(targets.FEW, "of the dense bandwidth") == (0.9, True)
    assert measured(targets.FEW_BACKWARD, "of the dense bandwidth") == (0.8, False)
    assert measured("token_logprobs, forward + backward, in place", "of copy bandwidth") == (0.75, False)
    assert measured("segment [64, 4096]", "µs") == (11.0, True)
    assert measured("gae [64, 4096]", "x faster than loop over steps") == (5000, True)
    assert measured("linear_token_logprobs", "x the bare matrix products") == (1.25, False)
    assert measured("linear_token_logprobs", "GiB of extra memory") == (1.0, True)
    # A peer that is missing decides nothing.
    assert judged["token_logprobs, forward + backward, in place", "x faster than Liger CE"]["missing"] == (
        "Liger CE was not measured"
    )
    assert "met" not in judged["segment [64, 4096]", "x faster than vectorized torch"]


def test_gpu_text_literals(tmp_path: Path) -> None:
    machine = {"gpu": "NVIDIA H200", "python": "3.12.3", "torch": "2.11.0+cu130"}
    phases = [{"name": "tests", "outcome": "passed"}]
    text = report.gpu_text({"machine": machine, "phases": phases, "rows": ROWS, "targets": targets.judge(ROWS)})
    assert text.startswith("NVIDIA H200; python 3.12.3, torch 2.11.0+cu130. ")
    assert "A copy moves 4000 GB/s." in text
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    assert ["token_logprobs + entropy, forward", "at least 92 % of copy bandwidth", "95 %", "yes"] in cells
    assert ["token_logprobs + entropy, forward, 25 % kept", "at most 28 % of the dense time", "30 %", "no"] in cells
    assert [FORWARD, "segkernel", "1 ms", "3800", "95 %", ""] in cells
    assert [HEAD, "segkernel", "50 ms", "", "", "1.00"] in cells
    assert text.endswith("Not installed or failing there: Liger CE.")


def test_write_pages_fills_all_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, readme = tmp_path / "benchmarks.md", tmp_path / "README.md"
    page.write_text("a\n<!-- benchmarks:begin -->\n<!-- benchmarks:end -->\nb\n<!-- gpu:begin -->\n<!-- gpu:end -->\n")
    readme.write_text("c\n<!-- headline:begin -->\nold\n<!-- headline:end -->\nd\n")
    monkeypatch.setattr(report, "PAGE", page)
    monkeypatch.setattr(report, "README", readme)
    monkeypatch.setattr(report, "HEADLINE_MACHINE", "a-cpu-2-cores-avx2")
    rows: list[dict[str, Any]] = [
        {"work": "segment [16, 1024]", "implementation": OURS, "seconds": 2e-5, "bytes": 2e5},
        {"work": "segment [16, 1024]", "implementation": "vectorized torch", "seconds": 4e-4, "extra_bytes": 3 << 20},
        {"work": "segment [16, 1024]", "implementation": "absent", "missing": "not installed"},
    ]
    machine = {"cpu": "A CPU", "cores": "2", "isa": "avx2", "python": "3.11", "torch": "2.13", "segkernel": "0.2"}
    other = {"machine": {**machine, "isa": "avx512"}, "rows": [{**row, "seconds": 1e-5} for row in rows[:1]]}
    report.write_pages([other, {"machine": machine, "rows": rows}])
    assert page.read_text().index("2 cores, avx2;") < page.read_text().index("2 cores, avx512;")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.read_text().splitlines()]
    assert ["segment [16, 1024]", "segkernel", "20 µs", "1x", "10.0", ""] in cells
    assert ["segment [16, 1024]", "vectorized torch", "400 µs", "20x", "", "3"] in cells
    assert "<!-- gpu:begin -->\nnot measured yet\n<!-- gpu:end -->" in page.read_text()
    text = readme.read_text()
    assert text.startswith(
        "c\n<!-- headline:begin -->\nA CPU, 2 cores, avx2; Python 3.11, torch 2.13, segkernel 0.2.\n"
    )
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert ["segment [16, 1024]", "20 µs", "vectorized torch", "400 µs", "20x"] in cells
    assert text.endswith("<!-- headline:end -->\nd\n")
    assert "avx512" not in text


def test_replace_between_refuses_a_page_without_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("text\n<!-- gpu:begin -->\n")
    with pytest.raises(ValueError, match=r"page.md: expected the markers <!-- gpu:begin --> and <!-- gpu:end -->"):
        replace_between(page, report.GPU_MARKERS, "table")
    assert page.read_text() == "text\n<!-- gpu:begin -->\n"


def test_pages_hold_the_stored_results() -> None:
    page = report.PAGE.read_text()
    results = report.stored_results()
    measured = [report.gpu_text(found) for found in results if "targets" in found]
    table = page.partition("<!-- gpu:begin -->\n")[2].partition("\n<!-- gpu:end -->")[0]
    assert table == ("\n\n".join(measured) or "not measured yet")
