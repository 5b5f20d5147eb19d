import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import segkernel
from segkernel import reference
from tests.helpers import DTYPES, LENGTHS, assert_near, random_batch, random_scores

NAN = float("nan")


def rewards(scores: list, mask: list | None = None, **options) -> list:
    valid = None if mask is None else torch.tensor(mask)
    return segkernel.redistribute(torch.tensor(scores), valid, **options).tolist()


def test_literals():
    assert rewards([[1.0, 1.5, 0.5]]) == [[1.0, 0.5, -1.0]]
    assert rewards([[1.0, 1.5, 0.5]], initial=2.0) == [[-1.0, 0.5, -1.0]]
    assert rewards([[1.0, 1.5, 0.5]], initial=2.0, mix=0.5, sequence_rewards=torch.tensor([8.0])) == [[-0.5, 0.25, 3.5]]
    assert rewards([[1.0, 1.5, 0.5]], mix=0.0, sequence_rewards=torch.tensor([8.0])) == [[0.0, 0.0, 8.0]]


def test_masked_tokens_are_skipped():
    assert rewards(
        [[NAN, 1.0, NAN, 4.0, NAN], [NAN] * 5],
        [[0, 1, 0, 1, 0], [0] * 5],
        initial=torch.tensor([0.5, 7.0]),
        mix=0.5,
        sequence_rewards=torch.tensor([2.0, 100.0]),
    ) == [[0.0, 0.25, 0.0, 2.5, 0.0], [0.0] * 5]


def test_packed_rows_do_not_see_each_other():
    assert rewards(
        [1.0, 3.0, 10.0, NAN],
        [1, 1, 1, 0],
        initial=torch.tensor([0.0, 5.0, 4.0]),
        mix=0.5,
        sequence_rewards=torch.tensor([2.0, 100.0, 6.0]),
        cu_seqlens=torch.tensor([0, 2, 2, 4], dtype=torch.int32),
    ) == [0.5, 2.0, 6.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", LENGTHS)
def test_against_the_reference(T, dtype):
    batch = random_batch(T)
    B = len(batch.lengths)
    scores = batch.poison(random_scores(B, T, dtype=dtype))
    per_row = {"initial": torch.linspace(-1, 1, B), "sequence_rewards": torch.linspace(-2, 3, B)}
    for options in ({}, {"initial": 0.25}, {"mix": 0.3, **per_row}, {"mix": 0.0, **per_row}):
        actual = segkernel.redistribute(scores, batch.mask, **options)
        expected = reference.redistribute(scores, batch.mask, **options)
        assert_near(actual, expected, rtol=1e-6, atol=1e-6)
        packed = segkernel.redistribute(
            batch.pack(scores), batch.pack(batch.mask), cu_seqlens=batch.cu_seqlens, **options
        )
        assert_near(packed, batch.pack(expected), rtol=1e-6, atol=1e-6)


@given(
    tokens=st.lists(st.tuples(st.integers(-64, 64), st.booleans()), max_size=40),
    initial=st.integers(-8, 8),
)
def test_a_row_sums_to_what_the_response_added(tokens, initial):
    scores = torch.tensor([[score / 8 for score, _ in tokens]])
    mask = torch.tensor([[valid for _, valid in tokens]], dtype=torch.bool)
    out = segkernel.redistribute(scores, mask, initial=float(initial))
    added = scores[mask][-1] - initial if mask.any() else torch.tensor(0.0)
    assert out.sum() == added  # all of them multiples of 1/8


def test_bad_parameters():
    scores = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"sequence_rewards: expected .*\[2\].*got float32 \[3\]"):
        segkernel.redistribute(scores, sequence_rewards=torch.zeros(3), mix=0.5)
    with pytest.raises(ValueError, match=r"initial: expected .*\[2\].*got float32 \[2, 1\]"):
        segkernel.redistribute(scores, initial=torch.zeros(2, 1))
    with pytest.raises(TypeError, match=r"mix: expected a number.*got str"):
        segkernel.redistribute(scores, mix="half")
