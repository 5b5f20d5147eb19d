"""Entry point of the command line: `segkernel train`, `inspect`, `run`, `info`."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

import segkernel
from segkernel._arguments import CommandParser, UserError, either


class Command(NamedTuple):
    """Subcommand: its line in the help, and the module whose `main(argv)` runs it and returns the exit status."""

    summary: str
    module: str


# The modules are imported on use: those in segkernel.training need the packages of `segkernel[train]`.
COMMANDS = {
    "train": Command("train a language model, a reward model or a policy", "segkernel.training.cli.train"),
    "inspect": Command("show the segments of a preference file as an HTML page", "segkernel.training.cli.inspect"),
    "run": Command("run a program with functions of TRL, verl, ... replaced", "segkernel.integrations.run"),
    "info": Command("show versions, backends and devices", "segkernel._info"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments after the program's name; default: those of the process.

    Returns:
        The exit status: 0, 2 for an error of the user's, 130 for an interrupt.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    if "tqdm" not in sys.modules and not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # read once, by its import: a log file gets no bars of any package
    parser = CommandParser(prog="segkernel", description=segkernel.__doc__)
    parser.add_argument("--version", action="version", version=f"segkernel {segkernel.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.summary, add_help=False)
    try:
        # Everything after the command's name is parsed by the command.
        chosen = parser.parse_args(arguments[:1]).command
        if chosen is None:
            parser.error(f"COMMAND: expected {either(list(COMMANDS))}, got none (see `segkernel --help`)")
        return int(importlib.import_module(COMMANDS[chosen].module).main(arguments[1:]))
    except (UserError, ImportError) as error:
        print(f"segkernel: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("segkernel: interrupted", file=sys.stderr)
        return 130
