"""Rows that several threads of a CPU share, against the same rows on one thread and against plain floats."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import segkernel
from tests.helpers import BACKEND, assert_identical, random_scores

pytestmark = pytest.mark.skipif(BACKEND != "cpu", reason="CUDA divides rows in its own way")

PART = 32768  # positions, as in csrc/core/row_parts.h
T = 3 * PART + 1000
POSITIONS = torch.arange(T)


def with_sparse_events() -> tuple[Tensor, Tensor]:
    """Ramps whose trigger changes rarely, with pivots next to ends of parts, in two parts none at all."""
    rewards = 0.1 * torch.sin(POSITIONS / 977.0)
    rewards[PART - 3 : PART + 40] = 2.0
    rewards[PART + 40] = -2.0
    rewards[T - 500] = 2.0
    return rewards, torch.ones(T, dtype=torch.bool)


def with_holes() -> tuple[Tensor, Tensor]:
    """Holes over the end of a part, over a whole part, and at the beginning of the row."""
    mask = torch.rand(T) < 0.8
    mask[: PART + 5] = False
    mask[2 * PART - 9 : 3 * PART + 1] = False
    return random_scores(T).masked_fill(~mask, math.nan), mask


ROWS = {
    "random": lambda: (random_scores(T), torch.ones(T, dtype=torch.bool)),
    "alternating": lambda: ((POSITIONS % 2) * 8.0 - 4.0, torch.ones(T, dtype=torch.bool)),
    "constant": lambda: (torch.full((T,), 0.25), torch.ones(T, dtype=torch.bool)),
    "sparse events": with_sparse_events,
    "holes": with_holes,
    "masked": lambda: (torch.full((T,), math.nan), torch.zeros(T, dtype=torch.bool)),
}


def on_threads(count: int, name: str, *tokens: Tensor, **options: Any) -> Any:
    torch.set_num_threads(count)
    return getattr(segkernel, name)(*tokens, **options)


@pytest.mark.parametrize("row", ROWS)
def test_shared_rows_have_the_bits_of_one_thread(row: str, threads: None) -> None:
    torch.manual_seed(0)
    rewards, mask = ROWS[row]()
    packed = {"cu_seqlens": torch.tensor([0, 3, T - 700, T])}  # a long row between short ones
    for layout, shape in (({}, (1, T)), (packed, (T,))):
        for name, options in (
            ("hysteresis", {"low": -0.5, "high": 0.5, "initial": -1}),
            ("hysteresis", {"low": -0.5, "high": 0.5, "initial": 1, "hold": False}),
            ("segment", {"pivot_threshold": 1.0, "delta": 0.5, "initial": 1, "sequence_sign": 1.0}),
            ("segment", {"delta": 0.5, "hold": False, "reduce": "sum"}),
            ("segment", {"pivot_threshold": 1.0, "baseline": 0.3, "sequence_sign": -1.0, "reduce": "max"}),
        ):
            tokens = (rewards.view(shape), mask.view(shape))
            expected = on_threads(1, name, *tokens, **options, **layout)
            assert_identical(on_threads(3, name, *tokens, **options, **layout), expected)
    doubles = rewards.double()[None], mask[None]
    options = {"pivot_threshold": 1.0, "delta": 0.5}
    assert_identical(on_threads(3, "segment", *doubles, **options), on_threads(1, "segment", *doubles, **options))


def plain_gae(
    rewards: list[float], values: list[float], mask: list[bool], gamma: float, lam: float, holes: str
) -> list[float]:
    last_valid = max((t for t, valid in enumerate(mask) if valid), default=-1)
    advantages, next_value, advantage = [0.0] * len(mask), 0.0, 0.0
    for t in range(last_valid, -1, -1):
        if not mask[t] and holes == "skip":
            continue
        reward, value = (rewards[t], values[t]) if mask[t] else (0.0, 0.0)
        advantage = reward + gamma * next_value - value + gamma * lam * advantage
        next_value = value
        if mask[t]:
            advantages[t] = advantage
    return advantages


@pytest.mark.parametrize(
    ("row", "gamma", "lam", "holes"),
    [
        ("random", 1.0, 0.95, "skip"),
        ("random", 1.0, 1.0, "skip"),
        ("random", 0.99, 0.0, "decay"),
        ("holes", 1.0, 0.95, "skip"),
        ("holes", 1.0, 1.0, "skip"),
        ("holes", 1 - 2**-13, 1.0, "decay"),
        ("masked", 1.0, 1.0, "decay"),
    ],
)
def test_gae_of_a_long_row_matches_plain_floats(row: str, gamma: float, lam: float, holes: str, threads: None) -> None:
    torch.manual_seed(0)
    rewards, mask = ROWS[row]()
    values = random_scores(T).masked_fill(~mask, math.nan)
    options = {"gamma": gamma, "lam": 0.9, "value_lam": lam, "holes": holes}
    tokens = [x[None] for x in (rewards, values, mask)]
    found = on_threads(3, "gae", *tokens, **options)
    assert_identical(on_threads(1, "gae", *tokens, **options), found)
    plain = [x.tolist() for x in (rewards.double(), values.double(), mask)]
    expected = [torch.tensor(plain_gae(*plain, gamma, one, holes)) for one in (0.9, lam)]
    scale = max(1.0, *(float(x.abs().max()) for x in expected))
    torch.testing.assert_close(found[0][0], expected[0], rtol=1e-5, atol=1e-5 * scale)
    returns = (expected[1].double() + values.double()).masked_fill(~mask, 0).float()
    torch.testing.assert_close(found[1][0], returns, rtol=1e-5, atol=1e-5 * scale)
    # Padding at the end changes no bits.
    padded = [torch.cat([x, x[:, :1].expand(1, PART)], 1) for x in tokens]
    padded[2][:, T:] = False
    for wide, narrow in zip(on_threads(2, "gae", *padded, **options), found, strict=True):
        assert_identical(wide[:, :T], narrow)


def test_gae_of_a_long_row_carries_infinities_to_every_earlier_token(threads: None) -> None:
    rewards = torch.zeros(1, T)
    rewards[0, 2 * PART + 5] = math.inf
    advantages, _ = on_threads(2, "gae", rewards, torch.zeros(1, T), lam=0.5)
    assert (advantages[0, : 2 * PART + 6] == math.inf).all()
    assert (advantages[0, 2 * PART + 6 :] == 0).all()


def test_gae_of_a_long_row_with_a_growing_trace_is_finite_without_later_rewards(threads: None) -> None:
    rewards = torch.zeros(1, T)
    rewards[0, 20] = 1.0
    advantages, returns = on_threads(2, "gae", rewards, torch.zeros(1, T), gamma=2.0, lam=1.0)
    assert advantages[0, :22].tolist() == [*(2.0 ** (20 - t) for t in range(21)), 0.0]
    assert_identical(returns, advantages)
    assert not advantages[0, 22:].any()
