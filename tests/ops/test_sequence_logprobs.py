import math

import pytest
import torch

import segkernel
from segkernel import reference
from tests.helpers import DEVICE, EVERY_DTYPE, assert_identical, opcheck, unchanged
from tests.ops.logprob_helpers import TRANSFORMS, assert_layouts_match_float64, random_labels, random_logits

NAN, INF = float("nan"), float("inf")
# The two tokens have probabilities 1/4 and 3/4 at every position.
LOGITS = torch.tensor([0.0, math.log(3)]).expand(2, 4, 2)
LABELS = torch.tensor([[0, 1, 1, -100], [0, 0, 1, 1]])
LOW, HIGH = math.log(1 / 4), math.log(3 / 4)


def test_sequence_logprobs_literals():
    torch.testing.assert_close(
        segkernel.sequence_logprobs(LOGITS, LABELS), torch.tensor([LOW + 2 * HIGH, 2 * LOW + 2 * HIGH])
    )
    mean = segkernel.sequence_logprobs(LOGITS, LABELS, reduce="mean")
    torch.testing.assert_close(mean, torch.tensor([(LOW + 2 * HIGH) / 3, (LOW + HIGH) / 2]))
    mask = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0]])
    for reduce in ("sum", "mean"):
        out = segkernel.sequence_logprobs(LOGITS, LABELS, mask, reduce=reduce)
        torch.testing.assert_close(out, torch.tensor([HIGH, 0.0]))
        assert out.dtype == torch.float32


def test_sequence_logprobs_of_one_temperature_per_row():
    # p = 3^k / (1 + 3^k) with k = 1 / temperature.
    low, high = math.log(1 / 10), math.log(9 / 10)
    out = segkernel.sequence_logprobs(LOGITS, LABELS, temperature=torch.tensor([[1.0], [0.5]]))
    torch.testing.assert_close(out, torch.tensor([LOW + 2 * HIGH, 2 * low + 2 * high]))


def test_sequence_logprobs_weights_literals():
    weights = torch.tensor([[2.0, 0.5, -1.0, NAN], [NAN, 1.0, 3.0, 0.0]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    torch.testing.assert_close(
        segkernel.sequence_logprobs(LOGITS, LABELS, mask, weights=weights),
        torch.tensor([2 * LOW - 0.5 * HIGH, LOW + 3 * HIGH]),
    )
    torch.testing.assert_close(
        segkernel.sequence_logprobs(LOGITS, LABELS, mask, weights=weights, reduce="mean"),
        torch.tensor([(2 * LOW - 0.5 * HIGH) / 1.5, (LOW + 3 * HIGH) / 4]),
    )
    # Weights that add up to nothing have no mean.
    weights = torch.tensor([[1.0, -1.0, 0.0, 5.0], [0.0, 0.0, 0.0, 0.0]])
    out = segkernel.sequence_logprobs(LOGITS, LABELS, weights=weights, reduce="mean")
    assert out.tolist() == [0.0, 0.0]


def test_sequence_logprobs_reduces_entropy_alike():
    H = -(LOW / 4 + 3 * HIGH / 4)
    log_probs, entropy = segkernel.sequence_logprobs(LOGITS, LABELS, entropy=True)
    torch.testing.assert_close(entropy, torch.tensor([3 * H, 4 * H]))
    assert_identical(log_probs, segkernel.sequence_logprobs(LOGITS, LABELS))
    _, entropy = segkernel.sequence_logprobs(LOGITS, LABELS, entropy=True, reduce="mean")
    torch.testing.assert_close(entropy, torch.tensor([H, H]))


def test_sequence_logprobs_packed_literals():
    labels, cu_seqlens = torch.tensor([0, 1, 1, 0, -100]), torch.tensor([0, 2, 2, 5])
    logits, weights = LOGITS[0, :1].expand(5, 2), torch.tensor([2.0, 1.0, 1.0, 3.0, NAN])
    torch.testing.assert_close(
        segkernel.sequence_logprobs(logits, labels, cu_seqlens=cu_seqlens),
        torch.tensor([LOW + HIGH, 0.0, LOW + HIGH]),
    )
    torch.testing.assert_close(
        segkernel.sequence_logprobs(logits, labels, weights=weights, reduce="mean", cu_seqlens=cu_seqlens),
        torch.tensor([(2 * LOW + HIGH) / 3, 0.0, (3 * LOW + HIGH) / 4]),
    )


@pytest.mark.parametrize("transform", [TRANSFORMS[0], TRANSFORMS[-1]], ids=str)
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("reduce", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
def test_sequence_logprobs_equals_its_reference_in_float64(weighted, reduce, dtype, transform):
    B, T, V = 4, 19, 257
    logits, labels = random_logits(B, T, V, dtype=dtype), random_labels(B, T, V=V)
    mask = torch.rand(B, T) < 0.7
    mask[2] = False
    labels[0, :4] = -100
    weights = torch.rand(B, T) + 0.1 if weighted else None
    upstream = [torch.randn(B, dtype=torch.float64 if dtype == torch.float64 else torch.float32) for _ in range(2)]
    options = {"reduce": reduce, "entropy": True, **transform}

    exact = logits.double().requires_grad_()
    double_weights = weights.double() if weighted else None
    expected = reference.sequence_logprobs(exact, labels, mask, weights=double_weights, **options)
    (expected_gradient,) = torch.autograd.grad(expected, exact, [g.double() for g in upstream])

    kept = mask & (labels != -100)
    poisoned = logits.masked_fill(~kept[..., None], NAN).requires_grad_()
    weights = weights.masked_fill(~kept, NAN) if weighted else None

    def call(lay_out, cu_seqlens):
        tensors = lay_out(poisoned), lay_out(labels), lay_out(mask)
        row_weights = lay_out(weights) if weighted else None
        return segkernel.sequence_logprobs(*tensors, weights=row_weights, cu_seqlens=cu_seqlens, **options)

    assert_layouts_match_float64(call, expected, expected_gradient, poisoned, upstream, kept, [T, T, 0, T])


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_sequence_logprobs_gradcheck(reduce):
    logits = random_logits(2, 3, 5, dtype=torch.float64, spread=1.0).requires_grad_()
    labels, mask = random_labels(2, 3, V=5), torch.tensor([[1, 1, 0], [0, 1, 1]])
    weights = torch.rand(2, 3, dtype=torch.float64)

    def reduced(logits):
        return segkernel.sequence_logprobs(logits, labels, mask, weights=weights, reduce=reduce, entropy=True)

    assert torch.autograd.gradcheck(reduced, logits)
    opcheck(lambda: reduced(logits))


def test_sequence_logprobs_inplace_backward_of_a_shifted_view():
    leaf, labels = random_logits(3, 9, 33, dtype=torch.float32).requires_grad_(), random_labels(3, 9, V=33)
    gradients = []
    for inplace_backward in (False, True):
        logits = leaf * 1
        out = segkernel.sequence_logprobs(
            logits[:, :-1], labels[:, 1:], reduce="mean", inplace_backward=inplace_backward
        )
        gradients.append(torch.autograd.grad(out.sum(), leaf)[0])
    assert_identical(gradients[1], gradients[0])
    with pytest.raises((RuntimeError, ValueError), match=r"inplace_backward.*leaf"):
        segkernel.sequence_logprobs(leaf, labels, inplace_backward=True).sum().backward()


def test_sequence_logprobs_bits_are_independent_of_threads_and_batch(threads):
    logits, labels = random_logits(6, 40, 1000, dtype=torch.bfloat16), random_labels(6, 40, V=1000)
    mask, weights = torch.rand(6, 40) < 0.6, torch.rand(6, 40)
    outs = []
    for number in (1, 2):
        torch.set_num_threads(number)
        outs.append(segkernel.sequence_logprobs(logits, labels, mask, weights=weights, entropy=True))
    assert_identical(outs[1], outs[0])
    for b in range(6):
        row = slice(b, b + 1)
        alone = segkernel.sequence_logprobs(logits[row], labels[row], mask[row], weights=weights[row], entropy=True)
        assert_identical(alone, (outs[0][0][row], outs[0][1][row]))


def test_sequence_logprobs_compiles_as_one_graph():
    torch.compiler.reset()

    def loss(logits, labels, weights):
        return segkernel.sequence_logprobs(logits, labels, weights=weights, reduce="mean").sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    logits, labels, weights = random_logits(2, 5, 33, dtype=torch.float32), random_labels(2, 5, V=33), torch.rand(2, 5)
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    compiled(leaves[0], labels, weights).backward()
    loss(leaves[1], labels, weights).backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_sequence_logprobs_refuses_wrong_arguments(value_checks: None):
    logits, labels = torch.zeros(2, 3, 7), torch.zeros(2, 3, dtype=torch.int64)
    call = segkernel.sequence_logprobs
    with pytest.raises(ValueError, match=r"reduce: expected one of 'sum', 'mean', got 'max'"):
        call(logits, labels, reduce="max")
    with pytest.raises(ValueError, match=r"weights: expected .*\[2, 3\].*got float32 \[2, 4\]"):
        call(logits, labels, weights=torch.zeros(2, 4))
    with pytest.raises(TypeError, match=r"weights: expected .*floating-point.*got complex64 \[2, 3\]"):
        call(logits, labels, weights=torch.zeros(2, 3, dtype=torch.complex64))
    with pytest.raises(ValueError, match=rf"weights: expected .*{DEVICE}.*got float32 \[2, 3\] on meta"):
        call(logits, labels, weights=torch.zeros(2, 3, device="meta"))
    with pytest.raises(ValueError, match=r"labels: expected .*\[B, T\].*got int64 \[3\]"):
        call(logits[0], labels[0])
    with pytest.raises(ValueError, match=r"cu_seqlens: expected to end at the number of packed tokens, 3, got 2"):
        call(logits[0], labels[0], cu_seqlens=torch.tensor([0, 2]))
    labels[1, 2] = 7
    with unchanged(logits, labels), pytest.raises(IndexError, match=r"(?=.*\[1, 2\])labels.*expected .*7.*got 7"):
        call(logits, labels)
