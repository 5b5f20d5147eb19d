"""`gae` against the loop over steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

import segkernel
from benchmarks import peers


class Case(NamedTuple):
    group: str
    implementation: str


@pytest.mark.parametrize("case", [Case("gae [16, 1024]", name) for name in ("segkernel", "loop over steps")], ids=str)
def test_gae(measure: Callable[..., None], case: Case) -> None:
    rewards, values = torch.randn(16, 1024), torch.randn(16, 1024)
    if case.implementation == "segkernel":
        function = lambda: segkernel.gae(rewards, values, gamma=0.99)  # noqa: E731
        measure(case.group, case.implementation, function, rounds=50, iterations=10)
    else:
        measure(case.group, case.implementation, lambda: peers.looped_gae(rewards, values, 0.99, 0.95), rounds=10)
