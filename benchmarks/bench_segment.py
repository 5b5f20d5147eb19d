"""`segment`: pivots, trigger, ids, rewards, signs and mask, against the same in torch; and what a call costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

import segkernel
from benchmarks import peers

SHAPES = {"[16, 1024]": (16, 1024), "[64, 8192]": (64, 8192)}
THRESHOLD, DELTA = 1.0, 0.5


class Case(NamedTuple):
    group: str
    shape: tuple[int, int]
    implementation: str


CASES = [
    Case(f"segment {name}", shape, implementation)
    for name, shape in SHAPES.items()
    for implementation in ("segkernel", "segkernel, 25 % kept", "vectorised torch", "loop over tokens")
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_segment(measure: Callable[..., None], case: Case, turn: int) -> None:
    rewards = torch.randn(case.shape)
    if case.implementation.startswith("segkernel"):
        mask = None
        if "25 %" in case.implementation:  # a response of a quarter of the row, after its prompt
            mask = (torch.arange(case.shape[1]) >= case.shape[1] * 3 // 4).expand(case.shape).contiguous()
        measure(
            case.group,
            case.implementation,
            lambda: segkernel.segment(rewards, mask, pivot_threshold=THRESHOLD, delta=DELTA, sequence_sign=1),
            rounds=50,
            iterations=10,
        )
        return
    is_loop = case.implementation == "loop over tokens"
    peer = peers.looped_segment if is_loop else peers.vectorised_segment
    if is_loop and turn > 0:
        pytest.skip("seconds per call: one turn says enough")
    measure(
        case.group,
        case.implementation,
        lambda: peer(rewards, THRESHOLD, -DELTA, DELTA, 1),
        rounds=1 if is_loop else 20,
    )


@pytest.mark.parametrize("case", [Case("call overhead, segment [4, 128]", (4, 128), "segkernel")], ids=str)
def test_call_overhead(measure: Callable[..., None], case: Case) -> None:
    rewards = torch.randn(case.shape)
    measure(
        case.group,
        case.implementation,
        lambda: segkernel.segment(rewards, pivot_threshold=THRESHOLD, delta=DELTA, sequence_sign=1),
        rounds=50,
        iterations=100,
    )
