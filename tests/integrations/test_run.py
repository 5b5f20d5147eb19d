"""`segkernel run`: the program, its environment, and the patches of child processes."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from segkernel import integrations
from segkernel._arguments import UserError
from segkernel._cli import main
from segkernel.integrations import import_hook, registry, run
from segkernel.integrations.estimators import parse_request
from segkernel.integrations.frameworks import FRAMEWORKS, MODULES
from segkernel.integrations.ray_environment import hook
from segkernel.integrations.run import STARTUP, check_advantages, check_estimator, command_line, environment

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_modules_of_the_import_hook_are_those_of_the_targets(name: str) -> None:
    (framework,) = registry._frameworks([name])
    assert set(MODULES[name]) == {target.module for target in framework.targets}


def test_scripts_and_modules_run_in_this_python_and_commands_from_its_folder(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.touch()
    assert command_line([str(script), "--a", "-1"]) == [sys.executable, str(script), "--a", "-1"]
    assert command_line(["-m", "pkg", "x"]) == [sys.executable, "-m", "pkg", "x"]
    assert command_line(["python", "-V"])[1:] == ["-V"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--patch", "nemo", "--", "x.py"], "--patch: expected trl, verl, openrlhf or llamafactory, got 'nemo'"),
        (["--", "x.py"], "--patch: expected trl, verl, openrlhf or llamafactory, got none"),
    ],
)
def test_run_names_a_wrong_framework(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *arguments]) == 2
    assert capsys.readouterr().err == f"segkernel: error: {message}\n"


def test_run_patches_all_frameworks_of_repeated_options_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trl", "openrlhf"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    calls: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *arguments: calls.append(arguments))
    run.main(["--patch", "trl", "--patch", "openrlhf, trl", "--", "-c", "pass"])
    ((path, command, variables),) = calls
    assert (path, command) == (sys.executable, [sys.executable, "-c", "pass"])
    assert variables["SEGKERNEL_INTEGRATIONS"] == "trl,openrlhf"


@pytest.mark.parametrize("arguments", [["--patch", "trl", "train.py"], ["--patch", "trl", "--"], []])
def test_run_says_where_the_program_belongs(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *arguments]) == 2
    assert capsys.readouterr().err == (
        "segkernel: error: PROGRAM: expected one after `--`, got none (see `segkernel run --help`)\n"
    )


def test_run_names_a_program_that_the_system_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell script without its first line, `#!/bin/sh`."""
    script = tmp_path / "train.sh"
    script.write_text("true\n")
    script.chmod(0o755)
    (tmp_path / "trl").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["run", "--patch", "trl", "--", str(script)]) == 2
    assert capsys.readouterr().err == f"segkernel: error: PROGRAM: {script} cannot be run: Exec format error\n"


@pytest.mark.parametrize("program", ["no_such_script.py", "no-such-command"])
def test_run_names_a_missing_program(program: str) -> None:
    with pytest.raises(UserError, match=f"^PROGRAM: there is no (file|command) {program}$"):
        command_line([program])


def test_environment_adds_to_what_is_there() -> None:
    assert environment(["verl", "trl"], {"PYTHONPATH": "a", "VERL_USE_EXTERNAL_MODULES": "mine", "X": "1"}) == {
        "PYTHONPATH": f"{STARTUP}{os.pathsep}a",
        "RAY_RUNTIME_ENV_HOOK": "segkernel.integrations.ray_environment.hook",
        "SEGKERNEL_INTEGRATIONS": "verl,trl",
        "VERL_USE_EXTERNAL_MODULES": "segkernel.integrations.verl.plugin,mine",
        "X": "1",
    }


def test_environment_has_the_requested_advantages() -> None:
    words = ["segkernel_asr_grpo", "delta=0.5", "rewards=my.rewards"]
    assert (
        environment(["openrlhf"], {}, words)["SEGKERNEL_ADVANTAGES"]
        == "segkernel_asr_grpo delta=0.5 rewards=my.rewards"
    )


def test_requested_advantages_have_typed_options_and_defaults() -> None:
    request = parse_request(["segkernel_asr_grpo", "delta=1", "hold=false", "rewards=my.rewards"], "--advantages")
    assert request.options == {
        "baseline": 0.0,
        "delta": 1,
        "pivot_threshold": None,
        "hold": False,
        "keep_neutral": False,
    }
    assert request.rewards == "my.rewards"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("segkernel_asr", "expected segkernel_turn_grpo or segkernel_asr_grpo, got 'segkernel_asr'"),
        ("segkernel_turn_grpo per", "expected OPTION=VALUE, got 'per'"),
        ("segkernel_turn_grpo delta=1", "expected options of per, got delta"),
        ("segkernel_asr_grpo delta=x rewards=a.b", "expected a number for delta, got 'x'"),
        ("segkernel_asr_grpo delta=true rewards=a.b", "expected a number for delta, got 'true'"),
        ("segkernel_asr_grpo hold=1 rewards=a.b", "expected true or false for hold, got '1'"),
        (
            "segkernel_asr_grpo rewards=a.b",
            "expected delta or pivot_threshold for segkernel_asr_grpo, got neither; add for example delta=0.5",
        ),
        (
            "segkernel_asr_grpo delta=1",
            "expected rewards=MODULE.FUNCTION, the token rewards of segkernel_asr_grpo, got none",
        ),
        ("segkernel_turn_grpo rewards=rewards", "expected rewards=MODULE.FUNCTION, got 'rewards'"),
        ("segkernel_turn_grpo rewards=a/b.c", "expected rewards=MODULE.FUNCTION, got 'a/b.c'"),
    ],
)
def test_run_names_what_is_wrong_with_the_advantages(words: str, message: str) -> None:
    with pytest.raises(UserError) as raised:
        check_advantages(words.split(), ["openrlhf"])
    assert str(raised.value) == f"--advantages: {message}"


def test_run_refuses_advantages_of_other_frameworks_and_with_the_off_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^--advantages: expected --patch openrlhf, got verl; other frameworks name"):
        check_advantages(["segkernel_turn_grpo"], ["verl"])
    monkeypatch.setenv("SEGKERNEL_INTEGRATIONS", "0")
    with pytest.raises(UserError, match=r"^--advantages: expected SEGKERNEL_INTEGRATIONS not to be 0"):
        check_advantages(["segkernel_turn_grpo"], ["openrlhf"])


@pytest.mark.parametrize("option", ["--algo.advantage.estimator", "--advantage_estimator"])
def test_run_refuses_estimators_without_groups(option: str) -> None:
    check_estimator(["-m", "openrlhf.cli.train_ppo_ray", option, "group_norm", f"{option}=dr_grpo"])
    for words in ([option, "gae"], [f"{option}=gae"]):
        with pytest.raises(
            UserError, match=rf"^{option}: expected group_norm or dr_grpo with --advantages, got 'gae'$"
        ):
            check_estimator(["-m", "openrlhf.cli.train_ppo_ray", *words])
    with pytest.raises(UserError, match=r"^--algo.advantage.estimator: expected group_norm or dr_grpo .* got 'gae'$"):
        check_estimator(["-m", "openrlhf.cli.train_ppo_ray"])
    check_estimator(["train.sh"])


def test_import_hook_stops_a_program_whose_requested_advantages_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An OpenRLHF whose experience maker is unknown: training with its own advantages would be silently wrong."""
    package = tmp_path / "openrlhf" / "trainer" / "ppo_utils"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "experience_maker.py").write_text(
        "class RemoteExperienceMaker:\n    def compute_advantages_and_returns(self, experiences):\n        ...\n"
    )
    metadata = tmp_path / "openrlhf-0.11.9.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: openrlhf\nVersion: 0.11.9\n")
    module = "openrlhf.trainer.ppo_utils.experience_maker"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SEGKERNEL_ADVANTAGES", "segkernel_turn_grpo")
    monkeypatch.setattr(sys, "meta_path", [import_hook.PatchAtImport({module: "openrlhf"}), *sys.meta_path])
    message = "compute_advantages_and_returns of openrlhf 0.11.9 cannot be replaced: unknown source"
    try:
        with pytest.raises(registry.NotReplaced, match=message):
            importlib.import_module(module)
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "openrlhf"]:
            del sys.modules[name]


def test_environment_keeps_a_hook_of_ray_and_names_the_variables(capsys: pytest.CaptureFixture[str]) -> None:
    assert environment(["openrlhf"], {"RAY_RUNTIME_ENV_HOOK": "mine.hook"})["RAY_RUNTIME_ENV_HOOK"] == "mine.hook"
    assert capsys.readouterr().err == (
        "segkernel: RAY_RUNTIME_ENV_HOOK is mine.hook, so workers of a Ray cluster that runs already need the "
        "variables SEGKERNEL_INTEGRATIONS, PYTHONPATH in their environment\n"
    )
    assert "RAY_RUNTIME_ENV_HOOK" not in environment(["trl"], {})


def test_hook_of_ray_adds_to_the_runtime_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEGKERNEL_INTEGRATIONS", "SEGKERNEL_ADVANTAGES", "VERL_USE_EXTERNAL_MODULES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", "startup")
    monkeypatch.setenv("SEGKERNEL_INTEGRATIONS", "openrlhf")
    assert hook(None) == {"env_vars": {"SEGKERNEL_INTEGRATIONS": "openrlhf", "PYTHONPATH": "startup:${PYTHONPATH}"}}
    given = {"pip": ["x"], "env_vars": {"SEGKERNEL_INTEGRATIONS": "0", "PYTHONPATH": "mine", "A": "1"}}
    assert hook(given) == {
        "pip": ["x"],
        "env_vars": {"SEGKERNEL_INTEGRATIONS": "0", "PYTHONPATH": "startup:mine", "A": "1"},
    }


def test_environment_of_the_off_switch_is_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGKERNEL_INTEGRATIONS", "0")
    assert environment(["trl"], {"X": "1"}) == {"X": "1"}


def test_run_patches_in_child_processes_and_keeps_an_unknown_version(tmp_path: Path) -> None:
    """A package named trl, of an unknown version, in a child of the program; a user's sitecustomize still runs."""
    package = tmp_path / "trl" / "trainer"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "utils.py").write_text("def selective_log_softmax(logits, index):\n    return logits[index]\n")
    metadata = tmp_path / "trl-1.0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: trl\nVersion: 1.0.0\n")
    (tmp_path / "sitecustomize.py").write_text("import sys\nprint('mine', file=sys.stderr)\n")
    script = tmp_path / "train.py"
    child = "import trl.trainer.utils as u; print(u.selective_log_softmax({1: 2}, 1))"
    script.write_text(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}], check=True)\n")
    ran = subprocess.run(
        [sys.executable, "-m", "segkernel", "run", "--patch", "trl", "--", script],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "2\n"
    assert ran.stderr.splitlines()[-1] == (
        "segkernel: trl 1.0.0: swapped 0 of 2 functions of trl.trainer.utils; kept "
        "trl.trainer.utils.selective_log_softmax (unknown source); kept trl.trainer.utils.entropy_from_logits "
        "(not found)"
    )
    assert ran.stderr.count("mine\n") == 3  # in `segkernel run` itself, the program and its child


def test_import_hook_names_an_unknown_framework(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setenv("SEGKERNEL_INTEGRATIONS", "tlr, llamafactory")
    import_hook.install()
    (hook,) = sys.meta_path
    assert isinstance(hook, import_hook.PatchAtImport)
    assert hook.pending == {"llamafactory.train.trainer_utils": "llamafactory"}
    assert capsys.readouterr().err == (
        "segkernel: SEGKERNEL_INTEGRATIONS: expected some of trl, verl, openrlhf, llamafactory, got 'tlr'\n"
    )


def test_import_hook_leaves_other_modules_alone() -> None:
    hook = import_hook.PatchAtImport({"json": "trl"})
    assert hook.find_spec("os", None) is None
    assert hook.pending == {"json": "trl"}
    assert integrations.status().rows == ()
