import math

import pytest
import torch

import segkernel
from segkernel import reference
from tests.helpers import EVERY_DTYPE, LENGTHS, assert_identical, assert_near, opcheck, random_batch, random_scores

NAN, INF = float("nan"), float("inf")
VALUES = torch.tensor([[NAN, 1.0, 3.0, NAN, 2.0, -5.0], [4.0, NAN, NAN, NAN, NAN, NAN]])
IDS = torch.tensor([[-1, 0, 0, -1, 0, 2], [0, -1, -1, -1, -1, -1]], dtype=torch.int32)


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        ("sum", [[6.0, 0.0, -5.0], [4.0, 0.0, 0.0]]),
        ("mean", [[2.0, 0.0, -5.0], [4.0, 0.0, 0.0]]),
        ("max", [[3.0, 0.0, -5.0], [4.0, 0.0, 0.0]]),
        ("min", [[1.0, 0.0, -5.0], [4.0, 0.0, 0.0]]),
        ("last", [[2.0, 0.0, -5.0], [4.0, 0.0, 0.0]]),
    ],
)
def test_segment_reduce_literals(reduce, expected):
    out = segkernel.segment_reduce(VALUES, IDS, 3, reduce=reduce)
    assert out.tolist() == expected
    assert out.dtype == torch.float32


def test_segment_reduce_logsumexp_literals():
    values = torch.tensor([[math.log(2), math.log(3), -INF, -INF, 1000.0, 1000.0]])
    out = segkernel.segment_reduce(values, torch.tensor([[0, 0, 0, 1, 2, 2]]), 4, reduce="logsumexp")
    torch.testing.assert_close(out, torch.tensor([[math.log(5), -INF, 1000 + math.log(2), 0.0]]))


def test_segment_reduce_takes_ids_in_any_order_and_leaves_out_those_out_of_range():
    values, ids = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]]), torch.tensor([[1, 0, 1, -7, 2]])
    assert segkernel.segment_reduce(values, ids, 2).tolist() == [[2.0, 5.0]]
    assert segkernel.segment_reduce(values, ids, 2, reduce="last").tolist() == [[2.0, 4.0]]
    assert segkernel.segment_reduce(values, ids, 0).shape == (1, 0)
    ids = torch.tensor([[1, 2**32, 2**31, -(2**32), 2**32 + 1]])  # not 0 and 1 of 32 bits
    assert segkernel.segment_reduce(values, ids, 2).tolist() == [[0.0, 1.0]]


def test_segment_reduce_of_packed_rows_literals():
    cu_seqlens = torch.tensor([0, 2, 2, 5])
    out = segkernel.segment_reduce(
        torch.tensor([1.0, 2.0, 4.0, NAN, 8.0]), torch.tensor([0, 0, 0, -1, 1]), 2, cu_seqlens=cu_seqlens
    )
    assert out.tolist() == [[3.0, 0.0], [0.0, 0.0], [4.0, 8.0]]


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "min", "last", "logsumexp"])
def test_segment_reduce_keeps_nan_in_its_segment(reduce):
    values, ids = torch.tensor([[1.0, NAN, 1.0, 1.0, 1.0]]), torch.tensor([[0, 0, 0, 1, 2]])
    out = segkernel.segment_reduce(values, ids, 3, reduce=reduce)
    assert out[0, 0].isnan() or reduce == "last"
    assert out[0, 1:].tolist() == [1.0, 1.0]


def random_segments(T: int) -> tuple:
    batch = random_batch(T)
    ids = segkernel.segment(torch.randn(batch.mask.shape), batch.mask, delta=0.5).ids
    return batch, ids, int(ids.max()) + 2 if ids.numel() else 1


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("T", LENGTHS)
def test_segment_reduce_equals_reference(T, dtype):
    batch, ids, S = random_segments(T)
    values = batch.poison(random_scores(*ids.shape, dtype=dtype))
    packed = {"cu_seqlens": batch.cu_seqlens, "num_segments": S, "ids": batch.pack(ids)}
    for reduce in ("sum", "mean", "max", "min", "last", "logsumexp"):
        actual = segkernel.segment_reduce(values, ids, S, reduce=reduce)
        expected = reference.segment_reduce(values, ids, S, reduce=reduce)
        exact = reduce in ("max", "min", "last")
        tolerance = 1e-12 if dtype == torch.float64 else 2e-6
        assert_near(actual, expected, rtol=0 if exact else tolerance, atol=0 if exact else tolerance)
        assert_identical(segkernel.segment_reduce(values, ids.long(), S, reduce=reduce), actual)
        assert_identical(segkernel.segment_reduce(batch.pack(values), reduce=reduce, **packed), actual)


@pytest.mark.parametrize("reduce", ["sum", "mean", "logsumexp", "last"])
def test_segment_reduce_gradcheck(reduce):
    values = torch.randn(2, 9, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[-1, 0, 0, 1, 1, 1, 4, -1, 9], [2, 2, 2, 2, -1, -1, 0, 0, 1]])

    def padded(values):
        return segkernel.segment_reduce(values, ids, 5, reduce=reduce)

    def packed(values):
        offsets = torch.tensor([0, 9, 9, 18])
        return segkernel.segment_reduce(values.view(-1), ids.view(-1), 5, reduce=reduce, cu_seqlens=offsets)

    assert torch.autograd.gradcheck(padded, values)
    assert torch.autograd.gradcheck(packed, values)
    opcheck(lambda: padded(values))
    opcheck(lambda: packed(values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reduce", ["sum", "mean", "logsumexp"])
def test_segment_reduce_gradients_at_masked_tokens_are_zero(reduce, dtype):
    batch, ids, S = random_segments(65)
    values = batch.poison(torch.randn(ids.shape)).to(dtype).requires_grad_()
    upstream = torch.randn(ids.shape[0], S)
    (segkernel.segment_reduce(values, ids, S, reduce=reduce) * upstream).sum().backward()
    assert values.grad.dtype == dtype
    assert not values.grad[~batch.mask].any()

    wanted = values.detach().double().requires_grad_()
    (reference.segment_reduce(wanted, ids, S, reduce=reduce) * upstream).sum().backward()
    assert_near(values.grad, wanted.grad.to(dtype), rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6)


def test_segment_reduce_logsumexp_of_impossible_tokens_has_no_gradient():
    values = torch.tensor([[-INF, -INF, 0.0]], requires_grad=True)
    out = segkernel.segment_reduce(values, torch.tensor([[0, 0, 1]]), 2, reduce="logsumexp")
    assert out.tolist() == [[-INF, 0.0]]
    out[0, 1].backward()
    assert values.grad[0, 2] == 1


@pytest.mark.parametrize("reduce", ["max", "min"])
def test_segment_reduce_of_extremes_has_no_derivative(reduce):
    values = torch.randn(1, 4, requires_grad=True)
    out = segkernel.segment_reduce(values, torch.zeros(1, 4, dtype=torch.int32), 1, reduce=reduce)
    with pytest.raises(RuntimeError, match=f"segment_reduce.*{reduce}.*no derivative"):
        out.sum().backward()


def test_segment_reduce_refuses_bad_arguments():
    with pytest.raises(ValueError, match=r"reduce: expected one of 'sum'.*got 'prod'"):
        segkernel.segment_reduce(VALUES, IDS, 3, reduce="prod")
    with pytest.raises(ValueError, match=r"ids: expected .*\[2, 6\].*got int32 \[2, 5\]"):
        segkernel.segment_reduce(VALUES, IDS[:, :5], 3)
    with pytest.raises(TypeError, match=r"ids: expected .*integer.*got float32"):
        segkernel.segment_reduce(VALUES, IDS.float(), 3)
    with pytest.raises(ValueError, match=r"num_segments: expected >= 0, got -1"):
        segkernel.segment_reduce(VALUES, IDS, -1)
    with pytest.raises(TypeError, match=r"values: expected .*floating-point.*got int64"):
        segkernel.segment_reduce(VALUES.nan_to_num().long(), IDS, 3)
