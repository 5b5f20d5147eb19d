import pytest
import torch

import segkernel

NAN, INF = float("nan"), float("inf")


def pivots(rewards: list, mask: list | None = None, **options) -> list:
    valid = None if mask is None else torch.tensor(mask)
    return segkernel.detect_pivots(torch.tensor(rewards), valid, **options).int().tolist()


def test_detect_pivots_literals():
    # Steps of 0.5 (not above the threshold), 0.75, 0, 4.25.
    assert pivots([[0.0, 0.5, 1.25, 1.25, -3.0]], threshold=0.5) == [[1, 0, 1, 0, 1]]
    assert pivots([[2.0, 2.0, 2.5]], threshold=0.0) == [[1, 0, 1]]
    assert pivots([[2.0, 3.0, 9.0]], threshold=INF) == [[1, 0, 0]]


def test_detect_pivots_compares_with_the_previous_valid_token():
    assert pivots([[9.0, 1.0, 9.0, 1.25, 2.0]], [[0, 1, 0, 1, 1]], threshold=0.5) == [[0, 1, 0, 0, 1]]
    assert pivots([[NAN, 1.0, NAN, 1.25, NAN]], [[0, 1, 0, 1, 0]], threshold=0.0) == [[0, 1, 0, 1, 0]]
    assert pivots([[1.0, 2.0], [1.0, 2.0]], [[0, 0], [1, 1]], threshold=0.5) == [[0, 0], [1, 1]]


def test_detect_pivots_packed_rows_are_independent():
    cu_seqlens = torch.tensor([0, 2, 2, 3, 5])
    assert pivots([1.0, 2.0, 5.0, 5.0, 9.0], threshold=1.5, cu_seqlens=cu_seqlens) == [1, 0, 1, 1, 1]
    assert pivots([1.0, 9.0, 5.0, 5.0, 9.0], [1, 0, 0, 1, 1], threshold=1.5, cu_seqlens=cu_seqlens) == [1, 0, 0, 1, 1]


def test_detect_pivots_threshold_per_row():
    assert pivots([[0.0, 1.0], [0.0, 1.0]], threshold=torch.tensor([0.5, 1.0])) == [[1, 1], [1, 0]]


def test_detect_pivots_nan_difference_is_no_pivot():
    assert pivots([[0.0, NAN, 5.0]], threshold=0.5) == [[1, 0, 0]]
    assert pivots([[NAN, 1.0, INF, INF]], threshold=0.5) == [[1, 0, 1, 0]]


def test_detect_pivots_compares_in_the_compute_dtype():
    # float32(0.1) > 0.1 as doubles; the threshold is rounded to float32 first, so they are equal.
    assert pivots([[0.0, 0.1]], threshold=0.1) == [[1, 0]]
    rewards = torch.tensor([[0.0, 0.1]], dtype=torch.float64)
    assert segkernel.detect_pivots(rewards, threshold=0.1).tolist() == [[True, False]]
    assert segkernel.detect_pivots(rewards, threshold=0.0999999999).tolist() == [[True, True]]
    # 1 + 2^-7 is the bfloat16 after 1: the step is exactly 2^-7, in float32.
    rewards = torch.tensor([[1.0, 1.0 + 2**-7]], dtype=torch.bfloat16)
    assert segkernel.detect_pivots(rewards, threshold=2**-7).tolist() == [[True, False]]
    assert segkernel.detect_pivots(rewards, threshold=2**-7 - 2**-20).tolist() == [[True, True]]


def test_detect_pivots_refuses_negative_and_nan_thresholds(value_checks: None):
    with pytest.raises(ValueError, match=r"threshold: expected >= 0, got -0\.5"):
        segkernel.detect_pivots(torch.zeros(1, 3), threshold=-0.5)
    with pytest.raises(ValueError, match=r"threshold.*expected >= 0.*-2"):
        segkernel.detect_pivots(torch.zeros(2, 3), threshold=torch.tensor([1.0, -2.0]))
    with pytest.raises(ValueError, match=r"threshold.*expected >= 0.*nan"):
        segkernel.detect_pivots(torch.zeros(2, 3), threshold=NAN)
