"""Check the build requirements in pyproject.toml, which `pip install --no-build-isolation` does not do."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path


def check(pyproject: Path) -> None:
    """Exit with the pip command to run if a build requirement is missing or too old."""
    missing = dict(unmet(build_requirements(pyproject)))
    if missing:
        found = ", ".join(f"{requirement} ({version})" for requirement, version in missing.items())
        packages = " ".join(f"'{requirement}'" for requirement in missing)
        sys.exit(
            f"segkernel: unmet build requirements: {found}. Run `pip install {packages}`, then "
            "`pip install --no-build-isolation .`"
        )


def build_requirements(pyproject: Path) -> list[str]:
    """`[build-system] requires`, for example `["setuptools>=77", ...]`."""
    requires = re.search(r"^requires = \[(.*)\]$", pyproject.read_text(encoding="utf-8"), re.MULTILINE)
    assert requires is not None
    return re.findall(r'"(.+?)"', requires[1])


def unmet(requirements: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (requirement, installed version) for every unmet build requirement."""
    for requirement in requirements:
        package, _, oldest = requirement.partition(">=")
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            yield requirement, "not installed"
            continue
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # importable, but without metadata: a source checkout on the path
        if release(version) < release(oldest):
            yield requirement, f"{version} is installed"


def release(version: str) -> tuple[int, ...]:
    """The release segment of a version: (2, 10, 0) for 2.10.0a0+git1234."""
    leading = re.match(r"\d+(\.\d+)*", version)
    assert leading is not None
    return tuple(map(int, leading[0].split(".")))


def package_folder(package: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
