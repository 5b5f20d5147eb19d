"""Questions about one option of a method."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.experiments.framework.experiment import Candidate, Method, Question


def option(method: Method, name: str, values: Iterable[Any], **question: Any) -> Question:
    """A question about one option of a method."""
    candidates = [Candidate(label(value), method.with_options(**{name: value})) for value in values]
    return Question(name.replace("_", " "), method, candidates, **question)


def label(value: Any) -> str:
    """
    Example:
        >>> label(0.5), label(True), label("mean")
        ('0.5', 'yes', 'mean')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
