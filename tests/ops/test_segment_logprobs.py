import math

import pytest
import torch

import segkernel
from segkernel import reference
from tests.helpers import EVERY_DTYPE, OperatorCalls, assert_identical, opcheck, unchanged
from tests.ops.logprob_helpers import TRANSFORMS, assert_layouts_match_float64, random_labels, random_logits

NAN = float("nan")
# The two tokens have probabilities 1/4 and 3/4 at every position.
LOGITS = torch.tensor([0.0, math.log(3)]).expand(2, 5, 2)
LABELS = torch.tensor([[0, 1, 1, -100, 0], [0, 0, 1, 1, 1]])
IDS = torch.tensor([[0, 0, 1, 1, -1], [-1, 0, 2, 2, 9]], dtype=torch.int32)
LOW, HIGH = math.log(1 / 4), math.log(3 / 4)


def test_segment_logprobs_literals():
    out = segkernel.segment_logprobs(LOGITS, LABELS, IDS, 3)
    torch.testing.assert_close(out, torch.tensor([[LOW + HIGH, HIGH, 0.0], [LOW, 0.0, 2 * HIGH]]))
    assert out.dtype == torch.float32
    # The label of -100 is not a token of segment 1.
    out = segkernel.segment_logprobs(LOGITS, LABELS, IDS, 3, reduce="mean")
    torch.testing.assert_close(out, torch.tensor([[(LOW + HIGH) / 2, HIGH, 0.0], [LOW, 0.0, HIGH]]))
    # With the temperature 1/2 the probabilities 1/4 and 3/4 become 1/10 and 9/10.
    out = segkernel.segment_logprobs(LOGITS, LABELS, IDS, 3, temperature=torch.tensor([[0.5], [1.0]]))
    low, high = math.log(1 / 10), math.log(9 / 10)
    torch.testing.assert_close(out, torch.tensor([[low + high, high, 0.0], [LOW, 0.0, 2 * HIGH]]))


def test_segment_logprobs_reduce_entropies_as_logprobs():
    H = -(LOW / 4 + 3 * HIGH / 4)
    log_probs, entropy = segkernel.segment_logprobs(LOGITS, LABELS, IDS, 3, entropy=True)
    torch.testing.assert_close(entropy, H * torch.tensor([[2.0, 1.0, 0.0], [1.0, 0.0, 2.0]]))
    assert_identical(log_probs, segkernel.segment_logprobs(LOGITS, LABELS, IDS, 3))
    _, entropy = segkernel.segment_logprobs(LOGITS, LABELS, IDS, 3, entropy=True, reduce="mean")
    torch.testing.assert_close(entropy, H * torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]))


def test_segment_logprobs_of_packed_rows_literals():
    out = segkernel.segment_logprobs(
        LOGITS[0],
        torch.tensor([0, 1, 1, 1, 0]),
        torch.tensor([0, 1, 0, 0, -1]),
        2,
        cu_seqlens=torch.tensor([0, 2, 2, 5]),
    )
    torch.testing.assert_close(out, torch.tensor([[LOW, HIGH], [0.0, 0.0], [2 * HIGH, 0.0]]))


@pytest.mark.parametrize("transform", [TRANSFORMS[0], TRANSFORMS[-1]], ids=str)
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_segment_logprobs_equal_their_reference_in_float64(reduce, dtype, transform):
    B, T, V, S = 4, 19, 257, 6
    logits, labels = random_logits(B, T, V, dtype=dtype), random_labels(B, T, V=V)
    mask = torch.rand(B, T) < 0.7
    mask[2] = False
    ids = segkernel.segment(torch.randn(B, T), mask, delta=0.8).ids
    labels[0, :4] = -100
    upstream = [torch.randn(B, S, dtype=torch.float64 if dtype == torch.float64 else torch.float32) for _ in range(2)]
    options = {"reduce": reduce, "entropy": True, **transform}

    exact = logits.double().requires_grad_()
    expected = reference.segment_logprobs(exact, labels, ids, S, **options)
    (expected_gradient,) = torch.autograd.grad(expected, exact, [g.double() for g in upstream])

    kept = (ids >= 0) & (ids < S) & (labels != -100)
    poisoned = logits.masked_fill(~kept[..., None], NAN).requires_grad_()

    def call(lay_out, cu_seqlens):
        tensors = lay_out(poisoned), lay_out(labels), lay_out(ids)
        return segkernel.segment_logprobs(*tensors, S, cu_seqlens=cu_seqlens, **options)

    assert_layouts_match_float64(call, expected, expected_gradient, poisoned, upstream, kept, [T, T, 0, T])


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_segment_logprobs_gradcheck(reduce):
    logits = random_logits(2, 5, 4, dtype=torch.float64, spread=1.0).requires_grad_()
    labels = random_labels(2, 5, V=4)

    def reduced(logits):
        return segkernel.segment_logprobs(logits, labels, IDS, 3, reduce=reduce, entropy=True)

    assert torch.autograd.gradcheck(reduced, logits)
    opcheck(lambda: reduced(logits))


def test_segment_logprobs_of_a_row_sum_to_its_sequence_logprob():
    logits, labels = random_logits(3, 30, 33, dtype=torch.float32), random_labels(3, 30, V=33)
    mask = torch.rand(3, 30) < 0.7
    segments = segkernel.segment(torch.randn(3, 30), mask, delta=0.5)
    by_segment = segkernel.segment_logprobs(logits, labels, segments.ids, 30)
    torch.testing.assert_close(by_segment.sum(1), segkernel.sequence_logprobs(logits, labels, mask))


def test_segment_logprobs_in_place_gradient_of_a_shifted_view_has_the_same_bits():
    leaf, labels = random_logits(2, 6, 33, dtype=torch.float32).requires_grad_(), random_labels(2, 6, V=33)
    gradients = []
    for inplace_backward in (False, True):
        logits = leaf * 1
        out = segkernel.segment_logprobs(logits[:, :-1], labels[:, 1:], IDS, 3, inplace_backward=inplace_backward)
        gradients.append(torch.autograd.grad(out.sum(), leaf)[0])
    assert_identical(gradients[1], gradients[0])


@pytest.mark.compiles
def test_segment_logprobs_compile_as_one_graph():
    torch.compiler.reset()

    def loss(logits, labels, ids):
        return segkernel.segment_logprobs(logits, labels, ids, 3, reduce="mean").sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    logits, labels = random_logits(2, 5, 33, dtype=torch.float32), random_labels(2, 5, V=33)
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    compiled(leaves[0], labels, IDS).backward()
    loss(leaves[1], labels, IDS).backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_segment_logprobs_refuse_bad_arguments(value_checks: None):
    logits, labels, ids = (
        torch.zeros(2, 3, 7),
        torch.zeros(2, 3, dtype=torch.int64),
        torch.zeros(2, 3, dtype=torch.int32),
    )
    call = segkernel.segment_logprobs
    with pytest.raises(ValueError, match=r"reduce: expected one of 'sum', 'mean', got 'last'"):
        call(logits, labels, ids, 2, reduce="last")
    with pytest.raises(ValueError, match=r"ids: expected .*\[2, 3\].*got int32 \[2, 2\]"):
        call(logits, labels, ids[:, :2], 2)
    with pytest.raises(TypeError, match=r"ids: expected .*integer.*got float32 \[2, 3\]"):
        call(logits, labels, ids.float(), 2)
    with pytest.raises(ValueError, match=r"num_segments: expected >= 0, got -1"):
        call(logits, labels, ids, -1)
    labels[1, 2] = -5
    with unchanged(logits, labels, ids), pytest.raises(IndexError, match=r"(?=.*\[1, 2\])labels.*expected .*7.*got -5"):
        call(logits, labels, ids, 2)


def test_segment_logprobs_refuse_packed_ids_that_decrease_before_any_work():
    logits, labels, offsets = torch.zeros(4, 7), torch.zeros(4, dtype=torch.int64), torch.tensor([0, 2, 4])
    with OperatorCalls() as recorder, segkernel.debug():
        segkernel.segment_logprobs(logits, labels, torch.tensor([0, 1, 0, 1]), 2, cu_seqlens=offsets)
        before = len(recorder.calls)
        with pytest.raises(ValueError, match=r"ids: expected non-decreasing .*, got 1 before 0 in row 1"):
            segkernel.segment_logprobs(logits, labels, torch.tensor([0, 1, 1, 0]), 2, cu_seqlens=offsets)
    read = [call for call, _, _ in recorder.calls[before:] if call is torch.ops.segkernel.token_logprobs.default]
    assert before > 1
    assert not read
