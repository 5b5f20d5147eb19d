"""What `import segkernel.numpy` costs in a fresh interpreter, beyond starting Python."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest


@pytest.mark.parametrize("statement", ["import segkernel.numpy", "import numpy", "pass"])
def test_import(measure: Callable[..., None], statement: str) -> None:
    measure(
        "import, fresh interpreter", statement, lambda: subprocess.run([sys.executable, "-c", statement], check=True)
    )
