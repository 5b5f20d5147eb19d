"""Argument parsing of the command line: one-line errors that suggest the nearest spelling, no abbreviations."""

import argparse
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

# Values that an option expects, by the name of the function that parses them.
TYPE_NAMES = {"int": "an integer", "float": "a number", "string_to_bool": "true or false"}


NEGATIVE_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|-inf(inity)?|-nan", re.IGNORECASE)


class UserError(Exception):
    """Error in what the user passed. The command prints it on one line, without a traceback, and exits with 2."""


class CommandParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that accepts no abbreviations and raises `UserError` in place of exiting."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})
        # A number such as -1e-3 is a value; argparse itself takes those with an exponent for options.
        self._negative_number_matcher = NEGATIVE_NUMBER
        self.removed: dict[str, str] = {}  # options that are not offered, with the reason

    def error(self, message: str) -> NoReturn:
        # argparse joins all spellings of an option: "argument --max_length/--max-length: ..."
        raise UserError(re.sub(r"^argument (?:-\w/)?([^\s/:]+)\S*:", r"\1:", message))

    def parse_args(  # type: ignore[override]  # typeshed overloads it by the namespace's class
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        known, unknown = self.parse_known_args(args, namespace)
        for argument in unknown:
            if argument.startswith("-"):
                name = argument.split("=")[0]
                reason = self.removed.get(name.lstrip("-").replace("-", "_").removeprefix("no_"))
                if reason is not None:
                    self.error(f"{name} is not available here: {reason}")
                self.error(f"there is no option {name}{did_you_mean(name, self._option_string_actions)}")
        if unknown:
            self.error(f"unexpected argument {unknown[0]!r}")
        return known

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            message = f"expected {either(names)}, got {str(value)!r}{did_you_mean(str(value), names)}"
            raise argparse.ArgumentError(action, message)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            expected = TYPE_NAMES.get(getattr(action.type, "__name__", ""))
            if expected is None:
                raise
            raise argparse.ArgumentError(action, f"expected {expected}, got {arg_string!r}") from error


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Suggestion of the candidate nearest to a misspelt word, or "".

    Example:
        >>> did_you_mean("--learning_rat", ["--learning_rate", "--seed"])
        '; did you mean --learning_rate?'
    """
    near = get_close_matches(word, list(candidates), n=1, cutoff=0.75)
    return f"; did you mean {near[0]}?" if near else ""


def either(names: Sequence[str]) -> str:
    """List of alternatives for an error message.

    Example:
        >>> either(["steps", "epoch", "no"])
        'steps, epoch or no'
    """
    return " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
