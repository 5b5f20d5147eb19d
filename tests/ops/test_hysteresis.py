import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import segkernel
from tests.helpers import assert_identical

NAN, INF = float("nan"), float("inf")


def states(rewards: list, mask: list | None = None, **options) -> list:
    valid = None if mask is None else torch.tensor(mask)
    return segkernel.hysteresis(torch.tensor(rewards), valid, **options).tolist()


REWARDS = [[0.25, 0.75, 0.25, -0.25, -0.75, 0.25, 0.75]]


def test_hysteresis_literals():
    assert states(REWARDS, low=-0.5, high=0.5) == [[0, 1, 1, 1, -1, -1, 1]]
    assert states(REWARDS, low=-0.5, high=0.5, initial=-1) == [[-1, 1, 1, 1, -1, -1, 1]]
    assert states(REWARDS, low=-0.5, high=0.5, hold=False) == [[0, 1, 0, 0, -1, 0, 1]]
    assert states(REWARDS, low=0.0, high=0.0) == [[1, 1, 1, -1, -1, 1, 1]]


def test_hysteresis_thresholds_are_in_the_band():
    assert states([[0.5, -0.5, 0.75, 0.5, -0.5]], low=-0.5, high=0.5) == [[0, 0, 1, 1, 1]]
    # As float32 the reward and the threshold are the same number.
    assert states([[0.1, -0.1]], low=-0.1, high=0.1) == [[0, 0]]


def test_hysteresis_masked_tokens_keep_the_state():
    assert states([[NAN, 1.0, -9.0, 0.0, NAN, -1.0]], [[0, 1, 0, 1, 0, 1]], low=-0.5, high=0.5) == [[0, 1, 0, 1, 0, -1]]
    assert states([[1.0, 1.0]], [[0, 0]], low=-0.5, high=0.5, initial=1) == [[0, 0]]


def test_hysteresis_packed_rows_are_independent():
    assert states([1.0, 0.0, 0.0, -1.0, 0.0], low=-0.5, high=0.5, cu_seqlens=torch.tensor([0, 2, 2, 3, 5])) == [
        1, 1, 0, -1, -1,
    ]  # fmt: skip


def test_hysteresis_parameters_per_row_literals():
    rewards = [[0.0, 1.0, 0.0]] * 3
    low, high, initial = torch.tensor([-1.0, 0.5, -1.0]), torch.tensor([2.0, 0.5, 0.5]), torch.tensor([1, 0, -1])
    assert states(rewards, low=low, high=high, initial=initial) == [[1, 1, 1], [-1, 1, -1], [-1, 1, 1]]


@pytest.mark.parametrize("hold", [True, False])
def test_hysteresis_nan_is_in_the_band(hold):
    assert states([[INF, NAN, -INF, NAN]], low=-0.5, high=0.5, hold=hold) == [[1, int(hold), -1, -int(hold)]]


@given(
    rewards=st.lists(st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, NAN]), max_size=40),
    cut=st.integers(0, 40),
    initial=st.sampled_from([-1, 0, 1]),
)
def test_hysteresis_shards_compose(rewards, cut, initial):
    """A sequence in two shards, the second started in the state the first ended in, is the whole sequence."""
    options = {"low": -0.5, "high": 0.25}
    whole, head, tail = (torch.tensor([part]) for part in (rewards, rewards[:cut], rewards[cut:]))
    head_states = segkernel.hysteresis(head, initial=initial, **options)
    carried = int(head_states[0, -1]) if head_states.numel() else initial
    tail_states = segkernel.hysteresis(tail, initial=carried, **options)
    together = torch.cat([head_states, tail_states], dim=1)
    assert_identical(together, segkernel.hysteresis(whole, initial=initial, **options))


def test_hysteresis_parameter_errors(value_checks: None):
    rewards = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"low: expected low <= high, got low = 1\.0, high = 0\.5"):
        segkernel.hysteresis(rewards, low=1.0, high=0.5)
    with pytest.raises(ValueError, match=r"low: expected low <= high, got low = 1, high = 0"):
        segkernel.hysteresis(rewards, low=torch.tensor([0.0, 1.0]), high=torch.tensor([0.0, 0.0]))
    with pytest.raises(ValueError, match=r"initial: expected -1, 0 or \+1, got 2"):
        segkernel.hysteresis(rewards, low=0.0, high=0.5, initial=2)
    with pytest.raises(ValueError, match=r"initial: expected -1, 0 or \+1, got -3"):
        segkernel.hysteresis(rewards, low=0.0, high=0.5, initial=torch.tensor([1, -3]))
    with pytest.raises(ValueError, match=r"initial: expected -1, 0 or \+1"):
        segkernel.hysteresis(rewards, low=0.0, high=0.5, initial=torch.tensor([0, 256]))
    with pytest.raises(ValueError, match=r"high: expected .*\[2\].*float32 \[3\]"):
        segkernel.hysteresis(rewards, low=0.0, high=torch.ones(3))
