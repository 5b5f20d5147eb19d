import pytest
import torch

import segkernel
from segkernel import reference
from tests.helpers import EVERY_DTYPE, LENGTHS, assert_identical, assert_near, opcheck, random_batch, random_scores

NAN = float("nan")
VALUES = torch.tensor([[6.0, 8.0, NAN], [1.0, NAN, NAN]])
IDS = torch.tensor([[-1, 0, 0, -1, 0, 1], [-1] * 6], dtype=torch.int32)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("repeat", [0.0, 6.0, 6.0, 0.0, 6.0, 8.0]),
        ("split", [0.0, 2.0, 2.0, 0.0, 2.0, 8.0]),
        ("last", [0.0, 0.0, 0.0, 0.0, 6.0, 8.0]),
    ],
)
def test_segment_broadcast_literals(how, expected):
    out = segkernel.segment_broadcast(VALUES, IDS, how=how)
    assert out.tolist() == [expected, [0.0] * 6]
    assert out.dtype == torch.float32


@pytest.mark.parametrize("how", ["repeat", "split", "last"])
def test_segment_broadcast_takes_ids_in_any_order_and_leaves_out_those_out_of_range(how):
    out = segkernel.segment_broadcast(torch.tensor([[6.0, 8.0]]), torch.tensor([[1, 0, 1, -7, 2, 1, 1]]), how=how)
    eights = {"repeat": [8.0] * 4, "split": [2.0] * 4, "last": [0.0, 0.0, 0.0, 8.0]}[how]
    assert out.tolist() == [[eights[0], 6.0, eights[1], 0.0, 0.0, eights[2], eights[3]]]


def test_segment_broadcast_to_packed_rows_literals():
    ids, cu_seqlens = torch.tensor([0, 0, 1, -1, 0]), torch.tensor([0, 3, 3, 5])
    values = torch.tensor([[1.0, 2.0], [9.0, 9.0], [4.0, 9.0]])
    assert segkernel.segment_broadcast(values, ids, cu_seqlens=cu_seqlens).tolist() == [1.0, 1.0, 2.0, 0.0, 4.0]
    split = segkernel.segment_broadcast(values, ids, how="split", cu_seqlens=cu_seqlens)
    assert split.tolist() == [0.5, 0.5, 2.0, 0.0, 4.0]


def random_segments(T: int) -> tuple:
    batch = random_batch(T)
    return batch, segkernel.segment(torch.randn(batch.mask.shape), batch.mask, delta=0.5)


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("T", LENGTHS)
def test_segment_broadcast_equals_reference(T, dtype):
    batch, segments = random_segments(T)
    S = max(1, int(segments.counts.max()) - 1)  # one segment is left out
    values = random_scores(len(batch.lengths), S, dtype=dtype)
    values[torch.arange(S) >= segments.counts[:, None]] = NAN
    for how in ("repeat", "split", "last"):
        actual = segkernel.segment_broadcast(values, segments.ids, how=how)
        expected = reference.segment_broadcast(values, segments.ids, how=how)
        assert_near(actual, expected, rtol=1e-6 if how == "split" else 0, atol=0)
        packed = segkernel.segment_broadcast(values, batch.pack(segments.ids), how=how, cu_seqlens=batch.cu_seqlens)
        assert_identical(packed, batch.pack(actual))


@pytest.mark.parametrize("how", ["split", "last"])
def test_segment_broadcast_preserves_the_sum(how):
    _, segments = random_segments(257)
    values = segments.rewards
    broadcast = segkernel.segment_broadcast(values, segments.ids, how=how)
    torch.testing.assert_close(segkernel.segment_reduce(broadcast, segments.ids, 257), values)


@pytest.mark.parametrize("how", ["repeat", "split", "last"])
def test_segment_broadcast_gradcheck(how):
    values = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[-1, 0, 0, 1, 1, 1, 3, -1, 9], [2, 2, 2, 2, -1, -1, 0, 0, 1]])

    def padded(values):
        return segkernel.segment_broadcast(values, ids, how=how)

    def packed(values):
        return segkernel.segment_broadcast(values, ids.view(-1), how=how, cu_seqlens=torch.tensor([0, 9, 18]))

    assert torch.autograd.gradcheck(padded, values)
    assert torch.autograd.gradcheck(packed, values)
    opcheck(lambda: padded(values))
    opcheck(lambda: packed(values))


@pytest.mark.parametrize("how", ["repeat", "split", "last"])
def test_segment_broadcast_ignores_upstream_gradients_at_masked_tokens(how):
    """The gradient that arrives at a masked token may be anything."""
    batch, segments = random_segments(64)
    values = torch.randn(segments.rewards.shape, requires_grad=True)
    broadcast = segkernel.segment_broadcast(values, segments.ids, how=how)
    upstream = torch.randn(broadcast.shape)
    (clean,) = torch.autograd.grad(broadcast, values, upstream, retain_graph=True)
    (poisoned,) = torch.autograd.grad(broadcast, values, batch.poison(upstream))
    assert_identical(poisoned, clean)
    assert not clean[torch.arange(64) >= segments.counts[:, None]].any()


def test_segment_broadcast_refuses_bad_arguments():
    with pytest.raises(ValueError, match=r"how: expected one of 'repeat'.*got 'spread'"):
        segkernel.segment_broadcast(VALUES, IDS, how="spread")
    with pytest.raises(ValueError, match=r"ids: expected 2 rows.*got int32 \[1, 6\]"):
        segkernel.segment_broadcast(VALUES, IDS[:1])
    with pytest.raises(TypeError, match=r"ids: expected .*integer.*got float32"):
        segkernel.segment_broadcast(VALUES, IDS.float())
    with pytest.raises(ValueError, match=r"values: expected \[B, S\].*got float32 \[3\]"):
        segkernel.segment_broadcast(VALUES[0], IDS)
