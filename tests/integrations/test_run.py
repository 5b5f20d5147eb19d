"""`segkernel run`: the program, its environment, and the patches of child processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from segkernel import integrations
from segkernel._arguments import UserError
from segkernel._cli import main
from segkernel.integrations import import_hook, registry
from segkernel.integrations.frameworks import FRAMEWORKS, MODULES
from segkernel.integrations.run import STARTUP, command_line, environment

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


@pytest.mark.parametrize("program", ["no_such_script.py", "no-such-command"])
def test_run_names_a_missing_program(program: str) -> None:
    with pytest.raises(UserError, match=f"^PROGRAM: there is no (file|command) {program}$"):
        command_line([program])


def test_environment_adds_to_what_is_there() -> None:
    assert environment(["verl", "trl"], {"PYTHONPATH": "a", "VERL_USE_EXTERNAL_MODULES": "mine", "X": "1"}) == {
        "PYTHONPATH": f"{STARTUP}{os.pathsep}a",
        "SEGKERNEL_INTEGRATIONS": "verl,trl",
        "VERL_USE_EXTERNAL_MODULES": "segkernel.integrations.verl.plugin,mine",
        "X": "1",
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
    metadata = tmp_path / "trl-1.10.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: trl\nVersion: 1.10.0\n")
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
        "segkernel: trl 1.10.0: swapped 0 of 2 functions of trl.trainer.utils; kept "
        "trl.trainer.utils.selective_log_softmax (unknown source); kept trl.trainer.utils.entropy_from_logits "
        "(not found)"
    )
    assert ran.stderr.count("mine\n") == 3  # in `segkernel run` itself, the program and its child


def test_import_hook_leaves_other_modules_alone() -> None:
    hook = import_hook.PatchAtImport({"json": "trl"})
    assert hook.find_spec("os", None) is None
    assert hook.pending == {"json": "trl"}
    assert integrations.status().rows == ()
