"""`segkernel run`: a program in whose processes frameworks are patched."""

import importlib.util
import itertools
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from segkernel._arguments import CommandParser, UserError, did_you_mean, either
from segkernel.integrations.estimators import OPENRLHF_SCALES, REQUEST, parse_request
from segkernel.integrations.frameworks import FRAMEWORKS, SWITCH, turned_off
from segkernel.integrations.ray_environment import HOOK

STARTUP = Path(__file__).with_name("startup")
PLUGIN = "segkernel.integrations.verl.plugin"
RAY_HOOK = "segkernel.integrations.ray_environment.hook"


def main(argv: Sequence[str]) -> int:
    """Replace this process by the program.

    Raises:
        UserError: an unknown framework, one that is not installed, advantages that are not as expected, or a program
            that is not found or cannot be run.
    """
    arguments = list(argv)
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options, program = arguments[:split], arguments[split + 1 :]
    if not program and not {"-h", "--help"} & set(options):
        raise UserError("PROGRAM: expected one after `--`, got none (see `segkernel run --help`)")
    parser = CommandParser(
        prog="segkernel run",
        usage="segkernel run --patch NAMES -- PROGRAM ...",
        description="Run a program with functions of its framework replaced by segkernel's, in all of its processes. "
        "PROGRAM is a Python script (train.py), a module (-m package.module) or a command (trl, accelerate, ...).",
        epilog="example: segkernel run --patch trl -- trl dpo --model_name_or_path ...",
    )
    parser.add_argument(
        "--patch",
        metavar="NAMES",
        action="append",
        default=[],
        help=f"frameworks, separated by commas: {', '.join(FRAMEWORKS)}",
    )
    parser.add_argument(
        "--advantages",
        metavar=("NAME", "OPTION=VALUE"),
        nargs="+",
        default=[],
        help="advantages of OpenRLHF, whose own options cannot name them: segkernel_turn_grpo, or segkernel_asr_grpo "
        "with rewards=MODULE.FUNCTION and delta=0.5",
    )
    given = parser.parse_args(options)
    words = ",".join(given.patch).split(",")
    names = list(dict.fromkeys(word.strip() for word in words if word.strip()))
    check_names(names)
    if given.advantages:
        check_advantages(given.advantages, names)
        check_estimator(program)
    command = command_line(program)
    sys.stdout.flush()
    try:
        os.execve(command[0], command, environment(names, os.environ, given.advantages))
    except OSError as error:  # such as a shell script without its first line, `#!/bin/sh`
        raise UserError(f"PROGRAM: {command[0]} cannot be run: {error.strerror}") from error


def check_names(names: Sequence[str]) -> None:
    """Check that frameworks are known and installed.

    Raises:
        UserError: one is not.
    """
    if not names:
        raise UserError(f"--patch: expected {either(list(FRAMEWORKS))}, got none")
    for name in names:
        if name not in FRAMEWORKS:
            hint = did_you_mean(name, FRAMEWORKS)
            raise UserError(f"--patch: expected {either(list(FRAMEWORKS))}, got {name!r}{hint}")
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--patch: {name} is not installed")


def check_advantages(words: Sequence[str], names: Sequence[str]) -> None:
    """Check the name and the options of requested advantages, and that the framework takes them from here.

    Raises:
        UserError: they are not as expected.
    """
    if "openrlhf" not in names:
        raise UserError(
            f"--advantages: expected --patch openrlhf, got {','.join(names)}; other frameworks name advantages in "
            "their own configuration"
        )
    if turned_off():
        raise UserError(f"--advantages: expected {SWITCH} not to be 0, which turns the integrations off")
    try:
        parse_request(words, "--advantages")
    except ValueError as error:
        raise UserError(str(error)) from None


def check_estimator(program: Sequence[str]) -> None:
    """Check OpenRLHF's own estimator, by the program's arguments: one with groups, whose place the others take.

    Raises:
        UserError: another estimator.
    """
    options = ("--algo.advantage.estimator", "--advantage_estimator")  # the second up to 0.10.0
    words = [part for word in program for part in (word.split("=", 1) if word.startswith(options) else [word])]
    if "openrlhf.cli.train_ppo_ray" in words and not any(option in words for option in options):
        words += [options[0], "gae"]  # the default
    for name, value in itertools.pairwise(words):
        if name in options and value not in OPENRLHF_SCALES:
            raise UserError(f"{name}: expected {either(list(OPENRLHF_SCALES))} with --advantages, got {value!r}")


def command_line(program: Sequence[str]) -> list[str]:
    """Path of the executable, and arguments, of a script, a module or a command.

    Raises:
        UserError: the program is not found.
    """
    first = program[0]
    if first.startswith("-"):
        return [sys.executable, *program]
    if first.endswith(".py"):
        if not Path(first).is_file():
            raise UserError(f"PROGRAM: there is no file {first}")
        return [sys.executable, *program]
    path = shutil.which(first, path=str(Path(sys.executable).parent)) or shutil.which(first)
    if path is None:
        raise UserError(f"PROGRAM: there is no command {first}")
    return [path, *program[1:]]


def environment(names: Sequence[str], inherited: Mapping[str, str], advantages: Sequence[str] = ()) -> dict[str, str]:
    """Environment that patches frameworks in every Python process; unchanged with `SEGKERNEL_INTEGRATIONS=0`."""
    if turned_off():
        print(f"segkernel: {SWITCH}=0, nothing is patched", file=sys.stderr)
        return dict(inherited)

    def joined(name: str, *values: str, separator: str) -> str:
        return separator.join([*values, *filter(None, [inherited.get(name)])])

    changed = {SWITCH: ",".join(names), "PYTHONPATH": joined("PYTHONPATH", str(STARTUP), separator=os.pathsep)}
    if advantages:
        changed[REQUEST] = " ".join(advantages)
    if "verl" in names or "openrlhf" in names:
        if inherited.get(HOOK, RAY_HOOK) != RAY_HOOK:
            print(
                f"segkernel: {HOOK} is {inherited[HOOK]}, so workers of a Ray cluster that runs already need the "
                f"variables {', '.join(changed)} in their environment",
                file=sys.stderr,
            )
        else:
            changed[HOOK] = RAY_HOOK
    if "verl" in names:  # verl 0.9 finds the plug-in by itself
        changed["VERL_USE_EXTERNAL_MODULES"] = joined("VERL_USE_EXTERNAL_MODULES", PLUGIN, separator=",")
    return {**inherited, **changed}
