"""Names of the advantage estimators, and their options. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
