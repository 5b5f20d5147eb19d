"""Names of the advantage estimators, their options, and the variable that requests one. Imports nothing heavy."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

REQUEST = "SEGKERNEL_ADVANTAGES"

# OpenRLHF's estimators with groups, and whether they divide by the standard deviation.
OPENRLHF_SCALES = {"group_norm": True, "dr_grpo": False}

OPTIONS: dict[str, dict[str, Any]] = {
    "segkernel_turn_grpo": {"per": "group"},
    "segkernel_asr_grpo": {
        "baseline": 0.0,
        "delta": None,
        "pivot_threshold": None,
        "hold": True,
        "keep_neutral": False,
    },
}


def estimator_options(
    name: str, given: Mapping[str, Any] | None, where: str, example: str = "delta=0.5"
) -> dict[str, Any]:
    """Options of an estimator, with defaults.

    Args:
        name: of `OPTIONS`.
        given: options that differ from the defaults.
        where: place of the options in a framework's configuration, for messages.
        example: an option as it is written there.

    Raises:
        ValueError: an unknown option, or one that is missing.

    Example:
        >>> estimator_options("segkernel_turn_grpo", {"per": "segment"}, "algorithm.segkernel")
        {'per': 'segment'}
    """
    defaults = OPTIONS[name]
    given = dict(given or {})
    for option in given:
        if option not in defaults:
            raise ValueError(f"{where}: expected options of {', '.join(defaults)}, got {option}")
    options = {**defaults, **given}
    if "delta" in options and options["delta"] is None and options["pivot_threshold"] is None:
        raise ValueError(
            f"{where}: expected delta or pivot_threshold for {name}, got neither; add for example {example}"
        )
    return options


class RequestedAdvantages(NamedTuple):
    """Advantages for a framework whose configuration cannot name an estimator.

    Args:
        name: of `OPTIONS`.
        options: of the estimator, with defaults.
        rewards: `MODULE.FUNCTION` that returns a batch's token rewards; None for an estimator that does without.
    """

    name: str
    options: dict[str, Any]
    rewards: str | None


def requested_advantages() -> RequestedAdvantages | None:
    """Advantages that the environment requests, `SEGKERNEL_ADVANTAGES="segkernel_asr_grpo delta=0.5 rewards=a.b"`.

    Raises:
        ValueError: an unknown name, or options that are unknown, missing or of another type.
    """
    words = os.environ.get(REQUEST, "").split()
    return parse_request(words, REQUEST) if words else None


def parse_request(words: Sequence[str], where: str) -> RequestedAdvantages:
    """Requested advantages from a name and options, `OPTION=VALUE` each.

    Args:
        words: the name first.
        where: option or variable that holds the words, for messages.

    Raises:
        ValueError: an unknown name, or options that are unknown, missing or of another type.

    Example:
        >>> parse_request(["segkernel_turn_grpo", "per=segment"], "--advantages")
        RequestedAdvantages(name='segkernel_turn_grpo', options={'per': 'segment'}, rewards=None)
    """
    name, *given = words
    if name not in OPTIONS:
        raise ValueError(f"{where}: expected {' or '.join(OPTIONS)}, got {name!r}")
    options: dict[str, Any] = {}
    rewards = None
    for word in given:
        option, separator, text = word.partition("=")
        if not (option and separator and text):
            raise ValueError(f"{where}: expected OPTION=VALUE, got {word!r}")
        if option == "rewards":
            rewards = text
        else:
            options[option] = _value(option, text, OPTIONS[name].get(option), where)
    options = estimator_options(name, options, where)
    if rewards is not None and ("." not in rewards or not all(map(str.isidentifier, rewards.split(".")))):
        raise ValueError(f"{where}: expected rewards=MODULE.FUNCTION, got {rewards!r}")
    if rewards is None and name == "segkernel_asr_grpo":
        raise ValueError(f"{where}: expected rewards=MODULE.FUNCTION, the token rewards of {name}, got none")
    return RequestedAdvantages(name, options, rewards)


def _value(option: str, text: str, default: Any, where: str) -> Any:
    """Value of an option, of the type of its default: a string, true or false, or a number."""
    if isinstance(default, str):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    if isinstance(default, bool) != isinstance(value, bool) or not isinstance(value, bool | int | float):
        kind = "true or false" if isinstance(default, bool) else "a number"
        raise ValueError(f"{where}: expected {kind} for {option}, got {text!r}")
    return value
