import pytest
import torch

import segkernel
from segkernel import reference
from tests.helpers import DTYPES, LENGTHS, assert_identical, random_batch, random_scores

NAN, INF = float("nan"), float("inf")


def pivots(rewards: list, mask: list | None = None, **options) -> list:
    valid = None if mask is None else torch.tensor(mask)
    return segkernel.detect_pivots(torch.tensor(rewards), valid, **options).int().tolist()


def test_literals():
    # Steps of 0.5 (not above the threshold), 0.75, 0, 4.25.
    assert pivots([[0.0, 0.5, 1.25, 1.25, -3.0]], threshold=0.5) == [[1, 0, 1, 0, 1]]
    assert pivots([[2.0, 2.0, 2.5]], threshold=0.0) == [[1, 0, 1]]
    assert pivots([[2.0, 3.0, 9.0]], threshold=INF) == [[1, 0, 0]]


def test_the_previous_token_is_the_previous_valid_one():
    assert pivots([[9.0, 1.0, 9.0, 1.25, 2.0]], [[0, 1, 0, 1, 1]], threshold=0.5) == [[0, 1, 0, 0, 1]]
    assert pivots([[NAN, 1.0, NAN, 1.25, NAN]], [[0, 1, 0, 1, 0]], threshold=0.0) == [[0, 1, 0, 1, 0]]
    assert pivots([[1.0, 2.0], [1.0, 2.0]], [[0, 0], [1, 1]], threshold=0.5) == [[0, 0], [1, 1]]


def test_packed_rows_do_not_see_each_other():
    cu_seqlens = torch.tensor([0, 2, 2, 3, 5])
    assert pivots([1.0, 2.0, 5.0, 5.0, 9.0], threshold=1.5, cu_seqlens=cu_seqlens) == [1, 0, 1, 1, 1]
    assert pivots([1.0, 9.0, 5.0, 5.0, 9.0], [1, 0, 0, 1, 1], threshold=1.5, cu_seqlens=cu_seqlens) == [1, 0, 0, 1, 1]


def test_one_threshold_per_row():
    assert pivots([[0.0, 1.0], [0.0, 1.0]], threshold=torch.tensor([0.5, 1.0])) == [[1, 1], [1, 0]]


def test_not_a_number_is_no_step():
    assert pivots([[0.0, NAN, 5.0]], threshold=0.5) == [[1, 0, 0]]
    assert pivots([[NAN, 1.0, INF, INF]], threshold=0.5) == [[1, 0, 1, 0]]


def test_comparison_in_the_compute_type():
    # float32(0.1) > 0.1 as doubles; the threshold is rounded to float32 first, so they are equal.
    assert pivots([[0.0, 0.1]], threshold=0.1) == [[1, 0]]
    rewards = torch.tensor([[0.0, 0.1]], dtype=torch.float64)
    assert segkernel.detect_pivots(rewards, threshold=0.1).tolist() == [[True, False]]
    assert segkernel.detect_pivots(rewards, threshold=0.0999999999).tolist() == [[True, True]]
    # 1 + 2^-7 is the bfloat16 after 1: the step is exactly 2^-7, in float32.
    rewards = torch.tensor([[1.0, 1.0 + 2**-7]], dtype=torch.bfloat16)
    assert segkernel.detect_pivots(rewards, threshold=2**-7).tolist() == [[True, False]]
    assert segkernel.detect_pivots(rewards, threshold=2**-7 - 2**-20).tolist() == [[True, True]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", LENGTHS)
def test_against_the_reference(T, dtype):
    batch = random_batch(T)
    B = len(batch.lengths)
    rewards = batch.poison(random_scores(B, T, dtype=dtype))
    for threshold in (0.0, 0.5, 1.3, torch.linspace(0, 2, B)):
        actual = segkernel.detect_pivots(rewards, batch.mask, threshold=threshold)
        assert_identical(actual, reference.detect_pivots(rewards, batch.mask, threshold=threshold))
        packed = segkernel.detect_pivots(
            batch.pack(rewards), batch.pack(batch.mask), threshold=threshold, cu_seqlens=batch.cu_seqlens
        )
        assert_identical(packed, batch.pack(actual))


def test_negative_threshold(value_checks: None):
    with pytest.raises(ValueError, match=r"threshold: expected >= 0, got -0\.5"):
        segkernel.detect_pivots(torch.zeros(1, 3), threshold=-0.5)
    with pytest.raises(ValueError, match=r"threshold.*expected >= 0.*-2"):
        segkernel.detect_pivots(torch.zeros(2, 3), threshold=torch.tensor([1.0, -2.0]))
    with pytest.raises(ValueError, match=r"threshold.*expected >= 0.*nan"):
        segkernel.detect_pivots(torch.zeros(2, 3), threshold=NAN)
