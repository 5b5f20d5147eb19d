"""`segkernel train METHOD`: train by one of the methods of the registry."""

import sys
from collections.abc import Sequence

from segkernel._arguments import UserError, did_you_mean
from segkernel.training.methods.registry import METHODS


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

    from segkernel.training.cli.build import build_trainer
    from segkernel.training.cli.run import run

    try:
        trainer = build_trainer(METHODS[name], options)
    except (ValueError, OSError) as error:
        # Nothing has been trained yet, so the mistake is in the options, the data or the models.
        raise UserError(str(error)) from error
    try:
        run(trainer, name)
    except FloatingPointError as error:
        raise UserError(str(error)) from error
    except KeyboardInterrupt:
        print(
            "segkernel: interrupted; add `--resume_from_checkpoint last` to the same command to resume", file=sys.stderr
        )
        return 130
    return 0


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
