"""`python -m build_support.toolkit VERSION FOLDER`: install a CUDA compiler from PyPI into FOLDER."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from build_support import cuda


def toolkit_home(version: str, folder: Path) -> Path:
    """The home of a toolkit of this version: an installed one, or one from PyPI in `folder`."""
    for toolkit in cuda.toolkits():
        if toolkit.version == version:
            return toolkit.home
    return from_pypi(version, folder)


def from_pypi(version: str, folder: Path) -> Path:
    """Install nvcc and its runtime from PyPI into `folder`; returns the toolkit's home."""
    if not cuda.is_on_pypi(version):
        sys.exit(f"segkernel: CUDA {version}: PyPI has no nvcc before 13.0; {cuda.install_hint(version)}")
    print(f"CUDA {version}: nvcc from PyPI")
    command = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder))
    subprocess.run([*command, *cuda.packages_of(version)], check=True)
    return next(folder.glob("nvidia/cu*"))


if __name__ == "__main__":
    print(from_pypi(sys.argv[1], Path(sys.argv[2])))
