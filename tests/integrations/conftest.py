"""Real packages for the integration tests: `make peers` installs them into build/peers."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from segkernel import integrations
from tests.integrations.peers import folder_of


@pytest.fixture(autouse=True)
def unpatched() -> Iterator[None]:
    yield
    integrations.unpatch()


def on_path(name: str) -> Iterator[Path]:
    """Folder of a package of `make peers`, at the end of the path: the environment's packages come first."""
    folder = folder_of(name)
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def trl() -> Iterator[Path]:
    yield from on_path("trl")


@pytest.fixture(scope="module")
def verl() -> Iterator[Path]:
    yield from on_path("verl")
