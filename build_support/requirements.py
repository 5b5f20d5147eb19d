"""What pyproject.toml says that building takes, and `pip install --no-build-isolation` does not look for."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path


def check(pyproject: Path) -> None:
    """Exits with what to install where the environment lacks something."""
    lacking = dict(unmet(stated(pyproject)))
    if lacking:
        those = " ".join(f"'{requirement}'" for requirement in lacking)
        sys.exit(
            f"segkernel: building takes {', '.join(f'{name} ({found})' for name, found in lacking.items())} in this "
            f"environment: `pip install {those}`, then `pip install --no-build-isolation .`"
        )


def stated(pyproject: Path) -> list[str]:
    """`["setuptools>=77", ...]`"""
    requires = re.search(r"^requires = \[(.*)\]$", pyproject.read_text(encoding="utf-8"), re.MULTILINE)
    assert requires is not None
    return re.findall(r'"(.+?)"', requires[1])


def unmet(requirements: list[str]) -> Iterator[tuple[str, str]]:
    """Those that are not there, or older than they should be, each with what was found."""
    for requirement in requirements:
        package, _, oldest = requirement.partition(">=")
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            yield requirement, "not installed"
            continue
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # installed in a way that does not tell
        if numbers(version) < numbers(oldest):
            yield requirement, f"{version} is installed"


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers: (2, 10, 0) for 2.10.0a0+git1234."""
    leading = re.match(r"\d+(\.\d+)*", version)
    assert leading is not None
    return tuple(map(int, leading[0].split(".")))


def folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
