"""Progress lines and bars, names of metrics, and the logs of integrations."""

import io
import os
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl, TrainerState
from transformers.integrations import integration_utils

from segkernel import _cli as cli
from segkernel.training import progress
from segkernel.training.cli.build import check_integrations
from segkernel.training.metrics import logged_metrics, main_charts, metric_name
from segkernel.training.progress import Progress, track
from segkernel.training.trainer.progress_log import ProgressLog


class Clock:
    """Stand-in for `time.monotonic`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def logged(
    logs: list[tuple[int, dict[str, float]]], clock: Clock, *, seconds_per_step: float, first: int = 0, **options: Any
) -> None:
    """Log entries of a run of 200 steps, through the callback."""
    args: Any = SimpleNamespace(disable_tqdm=options.get("disable_tqdm", True))
    state = TrainerState(max_steps=200, global_step=first, is_world_process_zero=options.get("main", True))
    log, control = ProgressLog(), TrainerControl()
    log.on_train_begin(args, state, control)
    for step, entry in logs:
        clock.now += seconds_per_step * (step - state.global_step)
        state.global_step = step
        log.on_step_end(args, state, control)
        log.on_log(args, state, control, logs=entry)
    log.on_train_end(args, state, control)


def test_log_file_gets_one_short_line_per_entry(monkeypatch, capsys):
    entries: list[tuple[int, dict[str, float]]] = [
        (40, {"loss": 0.51234, "grad_norm": 3.25, "learning_rate": 9e-6, "rewards/chosen": 0.1, "epoch": 0.2}),
        (40, {"eval_loss": 0.6, "eval_rewards/accuracies": 0.75, "eval_runtime": 3.0, "eval_pairs": 120}),
        (200, {"loss": float("nan"), "learning_rate": 0.0, "rewards/accuracies": 0.8, "rewards/margins": -0.0123}),
        (200, {"train_runtime": 1000.4, "train_loss": 0.4, "total_flos": 1e9}),
    ]
    logged(entries, Clock(monkeypatch), seconds_per_step=0.8)
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "step  40/200  loss 0.512  lr 9e-6  1.2 steps/s  eta 2:08",
        "step  40/200  held out:  loss 0.6  accuracy 0.75",
        "step 200/200  loss nan  accuracy 0.8  margin -0.0123  lr 0  1.2 steps/s  eta 0.0 s",
        "trained 200 steps in 16:40",
    ]
    assert printed.out == ""


def test_lines_in_the_documentation_are_those_of_a_run(monkeypatch, capsys):
    entries: list[tuple[int, dict[str, float]]] = [
        (1, {"loss": 0.006857, "rollout/reward": 0.0196, "rollout/kl": 0, "rollout/length": 84, "learning_rate": 1e-5}),
        (
            10,
            {
                "loss": 0.00563,
                "rollout/reward": 0.03124,
                "rollout/kl": 0.001212,
                "rollout/length": 86,
                "learning_rate": 9.5e-6,
            },
        ),
        (100, {"eval_loss": -0.214, "eval_reward": 0.214, "eval_kl": 0.0402, "eval_length": 91}),
    ]
    logged(entries, Clock(monkeypatch), seconds_per_step=0.9)
    page = Path(__file__).parents[2] / "docs" / "training.md"
    assert re.findall(r"```text\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL) == [capsys.readouterr().err]


def test_speed_of_a_resumed_run_counts_its_own_steps(monkeypatch, capsys):
    logged([(110, {"loss": 1.0})], Clock(monkeypatch), seconds_per_step=20.0, first=100)
    assert capsys.readouterr().err == "step 110/200  loss 1  20 s/step  eta 30:00\n"


def test_only_the_main_process_logs(monkeypatch, capsys):
    logged([(110, {"loss": 1.0})], Clock(monkeypatch), seconds_per_step=20.0, main=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("disable_tqdm", [False, True])
def test_terminal_gets_bars_unless_tqdm_is_disabled(disable_tqdm, monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    logged([(40, {"loss": 0.5})], Clock(monkeypatch), seconds_per_step=1.0, disable_tqdm=disable_tqdm)
    written = stderr.getvalue()
    assert "step  40/200  loss 0.5  1 steps/s  eta 2:40\n" in written
    assert ("training:  20%" in written) == (not disable_tqdm)
    assert ("\r" in written) == (not disable_tqdm)


def test_long_loop_writes_lines_with_remaining_time(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    done = []
    for item in track(range(10), "samples", total=10, disable_tqdm=False):
        clock.now += 12.0
        done.append(item)
    assert done == list(range(10))
    assert capsys.readouterr().err.splitlines() == [
        "samples: 3/10  12 s/item  eta 1:24",
        "samples: 6/10  12 s/item  eta 48 s",
        "samples: 9/10  12 s/item  eta 12 s",
        "samples: 10 in 2:00",
    ]


def test_short_loop_writes_nothing_to_a_log_file(monkeypatch, capsys):
    assert list(track("abc", "samples", total=3, disable_tqdm=False)) == ["a", "b", "c"]
    assert capsys.readouterr().err == ""


def test_loop_in_a_terminal_has_a_bar_with_description_and_total(monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    bar = Progress("reference log-probabilities", 40, bar=progress.shows_bars(False))
    bar.close()
    assert "reference log-probabilities:   0%" in stderr.getvalue()
    assert "0/40" in stderr.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_command_line_turns_bars_of_all_packages_off_in_a_log_file(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.delitem(sys.modules, "tqdm")
    monkeypatch.setattr(os, "environ", {})
    assert cli.main(["none"]) == 2
    assert os.environ == ({"TQDM_DISABLE": "1"} if stream is io.StringIO else {})


@pytest.mark.parametrize(
    ("keys", "charts"),
    [
        ("loss grad_norm learning_rate", "loss"),
        ("loss accuracy scores/chosen scores/rejected scores/margin", "loss accuracy scores/margin scores"),
        (
            "loss grad_norm rewards/chosen rewards/accuracies rewards/margins logps/chosen kept_chosen",
            "loss rewards/accuracies kept rewards/margins rewards",
        ),
        (
            "loss loss/policy loss/value clipped approximate_kl rollout/reward rollout/kl rollout/length kept "
            "rollout/entropy rollout/ended eval_reward eval_kl",
            "loss reward kl length kept entropy",
        ),
        (
            "loss reward/samples reward/accepted kept entropy eval_reward eval_length",
            "loss reward reward/accepted length kept entropy",
        ),
        (
            "loss kl/teacher kl/dpo entropy extrapolation logps response_tokens eval_rewards/accuracies",
            "loss rewards/accuracies kl/teacher entropy extrapolation",
        ),
    ],
)
def test_main_charts_of_each_method(keys, charts):
    names = [metric_name(key).chart for key in keys.split()]
    assert main_charts(names, varying=names) == charts.split()


def test_constant_share_of_kept_tokens_is_no_main_chart():
    assert main_charts(["loss", "kept"], varying=["loss"]) == ["loss"]


def test_held_out_loss_of_sampled_responses_is_omitted():
    assert logged_metrics({"eval_loss": -0.5, "eval_reward": 0.5, "eval_runtime": 1.0, "epoch": 2}) == {
        "eval_reward": 0.5
    }


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_integration_is_constructed_if_its_package_is_installed(name, monkeypatch):
    monkeypatch.setattr(integration_utils, f"is_{name}_available", lambda: False)
    with pytest.raises(ValueError, match=rf"report_to: \w+ requires {name} to be installed"):
        check_integrations(name)
    monkeypatch.setattr(integration_utils, f"is_{name}_available", lambda: True)
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    check_integrations(name)
