import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import segkernel

NAN = float("nan")


def rewards(scores: list, mask: list | None = None, **options) -> list:
    valid = None if mask is None else torch.tensor(mask)
    return segkernel.redistribute(torch.tensor(scores), valid, **options).tolist()


def test_redistribute_literals():
    assert rewards([[1.0, 1.5, 0.5]]) == [[1.0, 0.5, -1.0]]
    assert rewards([[1.0, 1.5, 0.5]], initial=2.0) == [[-1.0, 0.5, -1.0]]
    assert rewards([[1.0, 1.5, 0.5]], initial=2.0, mix=0.5, sequence_rewards=torch.tensor([8.0])) == [[-0.5, 0.25, 3.5]]
    assert rewards([[1.0, 1.5, 0.5]], mix=0.0, sequence_rewards=torch.tensor([8.0])) == [[0.0, 0.0, 8.0]]


def test_redistribute_skips_masked_tokens():
    assert rewards(
        [[NAN, 1.0, NAN, 4.0, NAN], [NAN] * 5],
        [[0, 1, 0, 1, 0], [0] * 5],
        initial=torch.tensor([0.5, 7.0]),
        mix=0.5,
        sequence_rewards=torch.tensor([2.0, 100.0]),
    ) == [[0.0, 0.25, 0.0, 2.5, 0.0], [0.0] * 5]


def test_redistribute_packed_rows_are_independent():
    assert rewards(
        [1.0, 3.0, 10.0, NAN],
        [1, 1, 1, 0],
        initial=torch.tensor([0.0, 5.0, 4.0]),
        mix=0.5,
        sequence_rewards=torch.tensor([2.0, 100.0, 6.0]),
        cu_seqlens=torch.tensor([0, 2, 2, 4], dtype=torch.int32),
    ) == [0.5, 2.0, 6.0, 0.0]


@given(
    tokens=st.lists(st.tuples(st.integers(-64, 64), st.booleans()), max_size=40),
    initial=st.integers(-8, 8),
)
def test_redistribute_rows_sum_to_last_minus_initial_score(tokens, initial):
    scores = torch.tensor([[score / 8 for score, _ in tokens]])
    mask = torch.tensor([[valid for _, valid in tokens]], dtype=torch.bool)
    out = segkernel.redistribute(scores, mask, initial=float(initial))
    added = scores[mask][-1] - initial if mask.any() else torch.tensor(0.0)
    assert out.sum() == added  # all of them multiples of 1/8


def test_redistribute_refuses_wrong_parameters():
    scores = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"sequence_rewards: expected .*\[2\].*got float32 \[3\]"):
        segkernel.redistribute(scores, sequence_rewards=torch.zeros(3), mix=0.5)
    with pytest.raises(ValueError, match=r"initial: expected .*\[2\].*got float32 \[2, 1\]"):
        segkernel.redistribute(scores, initial=torch.zeros(2, 1))
    with pytest.raises(TypeError, match=r"mix: expected a number.*got str"):
        segkernel.redistribute(scores, mix="half")
