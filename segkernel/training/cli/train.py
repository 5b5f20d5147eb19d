"""`segkernel train METHOD`: train by one of the methods of the registry."""

import time
from collections.abc import Sequence
from contextlib import ExitStack

from segkernel._arguments import UserError, did_you_mean
from segkernel.training.methods.registry import METHODS, Method


def main(argv: Sequence[str]) -> int:
    """Run `segkernel train`; without a method it lists them."""
    if not argv or argv[0] in ("-h", "--help"):
        print(method_list())
        return 0
    name, *options = argv
    if name not in METHODS:
        if name.startswith("-"):
            raise UserError(f"METHOD: expected a method before the options, got {name} (see `segkernel train`)")
        hint = did_you_mean(name, METHODS) or " (see `segkernel train`)"
        raise UserError(f"METHOD: there is no method {name!r}{hint}")

    return train(METHODS[name], options)


def train(method: Method, argv: Sequence[str]) -> int:
    """Run a method from its options, under the lock of its output directory.

    Returns:
        The exit status: 0, or 128 plus the number of the signal that ended the run.

    Raises:
        UserError: a mistake in the options, the data or the models, or a file that could not be written.
    """
    from segkernel.training.cli.build import build_trainer, claim_run, is_finished_run, parse_options
    from segkernel.training.cli.facts import Command
    from segkernel.training.cli.run import run_to_end
    from segkernel.training.trainer.run_directory import check_writable
    from segkernel.training.trainer.run_lock import run_lock

    began = time.monotonic()
    with ExitStack() as scope:
        try:
            options = parse_options(method, argv)
            config = options.config
            check_writable(config.output_dir)
            if config.should_save:
                scope.enter_context(run_lock(config.output_dir))
            record = claim_run(method, options)
            if is_finished_run(config):
                if config.process_index == 0:
                    print(f"The run in {config.output_dir} is finished; nothing is trained and no file is changed.")
                return 0
            trainer = build_trainer(method, options, record)
        except (ValueError, OSError) as error:
            # Nothing has been trained yet, so the mistake is in the options, the data or the models.
            raise UserError(str(error)) from error
        return run_to_end(trainer, Command(method, argv, began))


def method_list() -> str:
    """Help of `segkernel train`: the methods by group, one line each.

    Example:
        >>> print(method_list().splitlines()[5])
          pretrain        language model, on texts
    """
    lines = [
        "usage: segkernel train METHOD [OPTIONS]",
        "",
        "Train by one of these methods; `segkernel train METHOD --help` lists options.",
    ]
    for group in dict.fromkeys(method.group for method in METHODS.values()):
        lines += ["", f"{group}:"]
        for method in METHODS.values():
            if method.group == group:
                paper = f" (arXiv {method.paper})" if method.paper else ""
                lines.append(f"  {method.name:14}  {method.summary}{paper}")
    return "\n".join(lines)
