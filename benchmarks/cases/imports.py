"""Import times."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.cases.case import Case
from benchmarks.cases.machine import Machine


def import_time(machine: Machine) -> Iterator[Case]:
    """Import of the NumPy front in a fresh interpreter, next to NumPy's own."""
    statements = ("import segkernel.numpy", "import numpy", "pass")
    yield Case(
        "import, fresh interpreter",
        {s: lambda s=s: subprocess.run([sys.executable, "-c", s], check=True) for s in statements},
    )
