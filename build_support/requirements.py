"""Read the requirements in pyproject.toml, and check those of the build, as pip does not without build isolation.

    python -m build_support.requirements dependencies train

prints the requirements of the package and of its extra `train`.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path


def check(pyproject: Path) -> None:
    """Exit with the pip command to run if a build requirement is missing or too old."""
    missing = dict(unmet(listed(pyproject, "requires")))
    if missing:
        found = ", ".join(f"{requirement} ({version})" for requirement, version in missing.items())
        packages = " ".join(f"'{requirement}'" for requirement in missing)
        sys.exit(
            f"segkernel: unmet build requirements: {found}. Run `pip install {packages}`, then "
            "`pip install --no-build-isolation .`"
        )


def listed(pyproject: Path, key: str) -> list[str]:
    """The strings of a list that stands on one line: `listed(path, "gguf")` is `["gguf>=0.10"]`."""
    line = re.search(rf"^{key} = \[(.*)\]$", pyproject.read_text(encoding="utf-8"), re.MULTILINE)
    if line is None:
        sys.exit(f"segkernel: {pyproject} has no line `{key} = [...]`")
    return re.findall(r'"(.+?)"', line[1])


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


if __name__ == "__main__":
    print(*(requirement for key in sys.argv[1:] for requirement in listed(Path("pyproject.toml"), key)))
