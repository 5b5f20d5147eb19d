"""Real packages for the integration tests: `make peers` installs them into build/peers."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from segkernel import integrations

PEERS = Path(__file__).parents[2] / "build" / "peers"


@pytest.fixture(autouse=True)
def unpatched() -> Iterator[None]:
    yield
    integrations.unpatch()


@pytest.fixture(scope="module")
def trl() -> Iterator[None]:
    """TRL on the path: its dependencies are those of `segkernel[train]`, so it needs no process of its own."""
    if not (PEERS / "trl").is_dir():
        pytest.skip("trl is not installed in build/peers: run `make peers`")
    sys.path.append(str(PEERS / "trl"))
    yield
    sys.path.remove(str(PEERS / "trl"))
