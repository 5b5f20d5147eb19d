"""Report, last lines and logs of whole runs: one tiny run per kind of method, from the command line."""

import html as html_module
import io
import json
import platform
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tensorboardX.proto.event_pb2 import Event

import segkernel
from segkernel import _cli as cli
from segkernel.training.cli.facts import Command, given_options
from segkernel.training.methods.registry import METHODS
from tests.training.trainer_helpers import write_files

pytestmark = pytest.mark.charts

QUICK = ("--use_cpu", "--max_steps=2", "--logging_steps=1", "--per_device_train_batch_size=4", "--seed=7")
SAMPLED = ("--max_new_tokens=6", "--max_prompt_length=40", "--report_responses=4", "--eval_fraction=0.2")


class Run:
    """Outcome of one run of the command line."""

    def __init__(self, capsys: Any, directory: Path, *argv: str) -> None:
        self.argv = [*argv, "--output_dir", str(directory), *QUICK]
        self.directory = directory
        assert cli.main(["train", *self.argv]) == 0
        self.out, self.err = capsys.readouterr()
        self.page = (directory / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def runs(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run per kind of method, with what it printed."""
    folder = tmp_path_factory.mktemp("runs")
    capture = pytest.MonkeyPatch()
    prompts = ("--prompts", files["preferences"], "--reward_model", files["rm"], *SAMPLED)
    pairs = ("--preferences", files["preferences"], "--report_to=tensorboard", "--eval_fraction=0.2")
    found = {}
    for method, options in {"dpo": pairs, "rft": (*prompts, "--samples=3"), "ppo": prompts}.items():
        found[method] = Run(Captured(capture), folder / method, method, "--model", files["lm"], *options)
    capture.undo()
    return found


class Captured:
    """Standard output and error of a module-scoped fixture, for which `capsys` is not available."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.streams = io.StringIO(), io.StringIO()
        patch.setattr("sys.stdout", self.streams[0])
        patch.setattr("sys.stderr", self.streams[1])

    def readouterr(self) -> tuple[str, str]:
        return self.streams[0].getvalue(), self.streams[1].getvalue()


def text_of(page: str) -> str:
    return html_module.unescape(re.sub(r"<[^>]*>", "", page))


@pytest.mark.parametrize("method", ["dpo", "rft", "ppo"])
def test_log_of_a_run_is_short_and_free_of_bars(method, runs):
    lines = runs[method].err.splitlines()
    assert "\r" not in runs[method].err
    assert "{" not in runs[method].err
    # Two training steps, one evaluation, the end.
    assert [re.sub(r" in .*|  (loss|held out).*", "", line) for line in lines] == [
        "step 1/2",
        "step 2/2",
        "step 2/2",
        "trained 2 steps",
    ]
    assert re.fullmatch(r"step 1/2  loss \S+  .*  lr \S+  \S+ (steps/s|s/step)  eta .*", lines[0])


@pytest.mark.parametrize("method", ["dpo", "rft", "ppo"])
def test_end_of_a_run_and_its_report_say_what_ran(method, files, runs):
    run = runs[method]
    facts = {
        "method": f"{method}: {METHODS[method].summary}",
        "model": rf"{files['lm']} \([\d.]+ k parameters\)",
        "data": rf"{files['preferences']} \(\d+ rows, \d+ held out\)",
        "steps": r"2 \([\d.]+ epochs\)",
        "duration": r"\d+ s|0\.\d s",
        "device": "cpu",
        "versions": f"segkernel {segkernel.__version__}, torch {torch.__version__}, transformers "
        f"{transformers.__version__}, python {platform.python_version()}",
    }
    shown = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", run.page))
    for name, expected in facts.items():
        assert re.fullmatch(re.escape(expected) if name in ("method", "versions") else expected, shown[name]), name
        assert re.search(rf"^{name}  ", run.out, re.MULTILINE)
    assert "seed=7" in shown["options"]
    assert "learning_rate" not in shown["options"]  # at its default
    command = f"segkernel train {' '.join(run.argv)}"
    assert command in text_of(run.page)
    assert run.out.splitlines()[-3:] == [
        f"command: {command}",
        f"model: {run.directory}",
        f"report: {run.directory / 'report.html'}",
    ]
    # The table fits 80 columns, except for paths that are longer.
    assert all(len(line) <= 80 or "/" in line for line in run.out.splitlines()[:-3])


@pytest.mark.parametrize(
    ("method", "titles"),
    [
        ("dpo", {"loss", "accuracy", "margin"}),
        ("rft", {"reward", "length", "responses that end"}),
        ("ppo", {"reward", "KL", "length"}),
    ],
)
def test_end_of_a_run_names_held_out_metrics_readably(method, titles, runs):
    lines = runs[method].out.split("method  ")[0].splitlines()
    assert lines[0] == "held out"
    names = {re.split(r" {2,}", line.strip())[0] for line in lines[1:]}
    assert titles <= names
    assert not any("eval_" in name or "runtime" in name for name in names)


def test_ppo_report_shows_best_and_worst_responses_with_advantages(runs):
    page = runs["ppo"].page
    assert re.findall(r'<span class="tag (\w+)">', page) == ["best", "best", "worst", "worst"]
    scores = [float(score) for score in re.findall(r"score <strong>(.*?)</strong>", page)]
    assert scores[0] >= scores[1] >= scores[3] >= scores[2]
    titles = re.findall(r'title="(token \d+, .*?)"', page)
    assert 4 <= len(titles) <= 4 * 6
    assert all(re.fullmatch(r"token \d+, reward \S+, advantage \S+", title) for title in titles)
    figures = re.findall("<figcaption>(.*?)(?: <code>|</figcaption>)", page.split("<details>")[0])
    assert figures == ["loss", "reward", "KL", "length", "entropy"]


def test_rft_report_shows_best_and_worst_sample_of_a_prompt(runs):
    page = runs["rft"].page
    assert re.findall(r'<span class="tag (\w+)">', page) == ["best", "worst", "best", "worst"]
    best, worst, other_best, other_worst = map(float, re.findall(r"score <strong>(.*?)</strong>", page))
    assert best > worst
    assert other_best > other_worst
    assert page.count("<article") == 2
    rewards = [float(value) for value in re.findall(r'title="token \d+, reward (\S+)"', page)]
    assert any(rewards)


def test_options_at_their_defaults_are_not_listed():
    options = ["--preferences", "p.jsonl", "--beta=0.1", "--num_train_epochs=2", "--eval_fraction", "0.2"]
    assert given_options(Command(METHODS["dpo"], options, 0.0)) == {
        "preferences": "p.jsonl",
        "num_train_epochs": 2.0,
        "eval_fraction": 0.2,
    }


def scalars(directory: Path) -> dict[str, dict[int, float]]:
    """Scalars of the event files under a directory: values by tag and step."""
    found: dict[str, dict[int, float]] = {}
    for path in directory.rglob("events.out.tfevents.*"):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])  # between the checksums
            at += 16 + length
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def test_tensorboard_has_the_metrics_of_every_step(runs):
    run = runs["dpo"]
    found = scalars(run.directory)
    history = json.loads((run.directory / "trainer_state.json").read_text())["log_history"]
    losses = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    assert list(losses) == [1, 2]
    assert found["train/loss"] == pytest.approx(losses)
    assert list(found["train/rewards/accuracies"]) == list(found["train/learning_rate"]) == [1, 2]
    assert found["eval/loss"].keys() == {2}


def test_default_writes_no_event_files(runs):
    assert not list(runs["ppo"].directory.rglob("events.*"))
