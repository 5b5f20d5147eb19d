import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import segkernel
from segkernel import reference

NAN, INF = float("nan"), float("inf")
ENTROPY = torch.tensor([[0.5, 2.0, 1.75, 1.8, 0.0, 3.0, 3.0]])


def ids(entropy: torch.Tensor, mask: torch.Tensor | None = None, **options) -> list:
    return segkernel.segment_by_entropy(entropy, mask, **options)[0].tolist()


def test_segment_by_entropy_literals():
    row_ids, counts = segkernel.segment_by_entropy(ENTROPY, threshold=1.75)
    assert row_ids.tolist() == [[0, 1, 1, 2, 2, 3, 4]]
    assert counts.tolist() == [5]
    assert row_ids.dtype == counts.dtype == torch.int32
    # Token-level and sequence-level credit are the two ends.
    assert ids(ENTROPY, threshold=-1.0) == [[0, 1, 2, 3, 4, 5, 6]]
    assert ids(ENTROPY, threshold=INF) == [[0] * 7]


def test_segment_by_entropy_min_length_literals():
    assert ids(ENTROPY, threshold=1.75, min_length=2) == [[0, 0, 0, 1, 1, 2, 2]]
    assert ids(ENTROPY, threshold=1.75, min_length=4) == [[0, 0, 0, 0, 0, 1, 1]]
    assert ids(ENTROPY, threshold=-1.0, min_length=3) == [[0, 0, 0, 1, 1, 1, 2]]


def test_segment_by_entropy_ignores_masked_tokens():
    entropy = torch.tensor([[NAN, 0.0, 9.0, 9.0, 0.0, 9.0, NAN], [9.0] * 7])
    mask = torch.tensor([[0, 1, 0, 1, 1, 1, 0], [0] * 7])
    row_ids, counts = segkernel.segment_by_entropy(entropy, mask, threshold=1.0)
    assert row_ids.tolist() == [[-1, 0, -1, 1, 1, 2, -1], [-1] * 7]
    assert counts.tolist() == [3, 0]
    assert ids(entropy[:1], mask[:1], threshold=1.0, min_length=2) == [[-1, 0, -1, 0, 0, 1, -1]]


def test_segment_by_entropy_packed_rows_with_thresholds_per_row():
    entropy = torch.tensor([2.0, 2.0, 2.0, 2.0, NAN, 2.0])
    cu_seqlens = torch.tensor([0, 2, 2, 6])
    threshold = torch.tensor([1.0, 0.0, 2.0])
    row_ids, counts = segkernel.segment_by_entropy(entropy, threshold=threshold, cu_seqlens=cu_seqlens)
    assert row_ids.tolist() == [0, 1, 0, 0, 0, 0]
    assert counts.tolist() == [2, 0, 1]


@given(
    entropy=st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), max_size=60),
    threshold=st.sampled_from([-1.0, 1.0, 2.5]),
    min_length=st.integers(1, 6),
)
def test_segment_by_entropy_all_but_the_last_segment_have_min_length(entropy, threshold, min_length):
    row_ids, counts = segkernel.segment_by_entropy(torch.tensor([entropy]), threshold=threshold, min_length=min_length)
    lengths = row_ids[0].bincount(minlength=int(counts))
    assert (lengths[:-1] >= min_length).all()
    opened = [t for t in range(1, len(entropy)) if row_ids[0, t] != row_ids[0, t - 1]]
    assert all(entropy[t] > threshold for t in opened)


@pytest.mark.parametrize("min_length", [1, 3, 20, 700, 1500, 2**63 - 1])
def test_segment_by_entropy_of_rows_of_several_tiles(min_length):
    """The CUDA kernel gives such a row several blocks, whose starts depend on those of the earlier blocks."""
    entropy = torch.rand(6, 5000)
    entropy[0] = 1.0  # every token is uncertain, so all starts depend on the first
    entropy[1] = torch.where(torch.arange(5000) % 997 == 0, 1.0, 0.0)
    entropy[5, 1500:] = 0.0
    mask = torch.rand(6, 5000) < 0.9
    mask[0] = True
    mask[2, :2500] = False
    mask[3, 1000:3100] = False
    mask[4] = False
    row_ids, counts = segkernel.segment_by_entropy(entropy, mask, threshold=0.8, min_length=min_length)
    expected_ids, expected_counts = reference.segment_by_entropy(entropy, mask, threshold=0.8, min_length=min_length)
    assert torch.equal(row_ids, expected_ids)
    assert torch.equal(counts, expected_counts)


def test_segment_by_entropy_refuses_wrong_parameters():
    with pytest.raises(ValueError, match=r"min_length: expected >= 1, got 0"):
        segkernel.segment_by_entropy(ENTROPY, threshold=1.0, min_length=0)
    with pytest.raises(TypeError, match=r"min_length: expected an int.*got float 1\.5"):
        segkernel.segment_by_entropy(ENTROPY, threshold=1.0, min_length=1.5)
    with pytest.raises(TypeError, match=r"threshold: expected a number.*got str"):
        segkernel.segment_by_entropy(ENTROPY, threshold="high")


def test_segment_by_entropy_operator_takes_a_min_length_below_1_as_1():
    operator = torch.ops.segkernel.segment_by_entropy.default
    expected_ids, expected_counts = operator(ENTROPY, None, 1.75, None, 1, None)
    for min_length in (0, -1, -(2**63)):
        row_ids, counts = operator(ENTROPY, None, 1.75, None, min_length, None)
        assert row_ids.tolist() == expected_ids.tolist()
        assert counts.tolist() == expected_counts.tolist()
