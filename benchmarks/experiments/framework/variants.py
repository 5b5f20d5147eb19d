"""Methods with options that won on the tuning seeds and are not the defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.experiments.framework.experiment import Method


def tuned(method: Method, name: str, *, against: Method | None = None, **options: Any) -> Method:
    """A method with other options under a name of its own; its baseline is that of the method, or `against`."""
    return replace(
        method.with_options(**options),
        name=f"{method.name}, {name}",
        baseline=against or method.baseline,
        decides=False,
    )
