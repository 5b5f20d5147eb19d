"""Turns: every measurement is made several times, interleaved with those it is compared with.

Timings drift with the machine's load, so each group of implementations is run through in turns, and the report takes
medians over all of them. `--turns 1` for a quick look.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--turns", type=int, default=3, help="how often each measurement is repeated, interleaved")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "measure" in metafunc.fixturenames:
        metafunc.parametrize("turn", range(metafunc.config.getoption("turns")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def key(item: Any) -> tuple[str, str, int]:
        case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
        return item.module.__name__, str(getattr(case, "group", item.originalname)), item.callspec.params["turn"]

    items.sort(key=key)


@pytest.fixture
def measure(benchmark: Any, turn: int) -> Callable[..., None]:
    """`measure(group, implementation, function, rounds=..., iterations=..., bytes_moved=...)`."""

    def run(
        group: str,
        implementation: str,
        function: Callable[[], Any],
        *,
        rounds: int = 5,
        iterations: int = 1,
        bytes_moved: int | None = None,
    ) -> None:
        benchmark.group = group
        benchmark.extra_info.update(implementation=implementation, bytes=bytes_moved, threads=torch.get_num_threads())
        benchmark.pedantic(function, rounds=rounds, iterations=iterations, warmup_rounds=1)

    return run


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
