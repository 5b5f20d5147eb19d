import math

import pytest
import torch

import segkernel
from segkernel import reference
from tests.helpers import BACKEND, EVERY_DTYPE, assert_identical, assert_near, unchanged
from tests.ops.logprob_helpers import TRANSFORMS, accuracy, assert_gradient, random_logits

NAN, INF = float("nan"), float("inf")
both_kinds = pytest.mark.parametrize("kind", ["kl", "reverse_kl"])


def teacher(*shape, V, K, **options):
    """Top `K` of a random teacher: ids and log-probabilities in float32."""
    logits = random_logits(*shape, V, dtype=torch.float32)
    return tuple(x for x in reversed(tuple((logits / options.get("temperature", 1.0)).log_softmax(-1).topk(K))))


def test_topk_divergence_literals():
    # p = 1/2, 1/4, 1/8, 1/8; the server knows token 2 with 1/2 and token 0 with 1/4, and leaves 1/4.
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log() + 3
    ids, other = torch.tensor([[2, 0]]), torch.tensor([[0.5, 0.25]]).log()
    log2 = math.log(2)
    for kind, tail, expected in (
        ("kl", False, -2 / 8 * log2 + 1 / 2 * log2),
        ("reverse_kl", False, 1 / 2 * 2 * log2 - 1 / 4 * log2),
        ("kl", True, 1 / 4 * log2 + 3 / 8 * math.log(1.5)),
        ("reverse_kl", True, 3 / 4 * log2 + 1 / 4 * math.log(2 / 3)),
    ):
        out = segkernel.topk_divergence(logits, ids, other, kind=kind, tail=tail)
        assert out.tolist() == pytest.approx([expected], rel=1e-6)
        assert out.dtype == torch.float32


def test_topk_divergence_gradient_literals():
    # Two outcomes, token 0 with p = 1/2 and q = 1/4, and the rest: d/dz_0 KL = p (1 - p) (log(p/q) - log((1-p)/(1-q))).
    logits = torch.tensor([[math.log(2), 0.0, 0.0]], requires_grad=True)
    ids, other = torch.tensor([[0]]), torch.tensor([[0.25]]).log()
    (grad,) = torch.autograd.grad(segkernel.topk_divergence(logits, ids, other).sum(), logits)
    expected = 0.25 * (math.log(2) - math.log(2 / 3))
    torch.testing.assert_close(grad, torch.tensor([[expected, -expected / 2, -expected / 2]]))


@both_kinds
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_topk_divergence_and_gradient_match_float64_reference(kind, dtype):
    V, K = 257, 5
    mask = torch.tensor([[1, 0, 1], [1, 1, 0]])
    for transform in (TRANSFORMS[0], TRANSFORMS[-1]):
        for tail in (True, False):
            logits = random_logits(2, 3, V, dtype=dtype)
            ids, other = teacher(2, 3, V=V, K=K)
            ids[0, 0, 3:] = -100  # fewer than K
            options = {"kind": kind, "tail": tail, **transform}
            exact = logits.double().requires_grad_()
            wanted = reference.topk_divergence(exact, ids, other, mask, **options)
            upstream = torch.randn(2, 3, dtype=torch.float64)
            (wanted_grad,) = torch.autograd.grad(wanted, exact, upstream)
            hidden = mask[..., None] == 0
            leaf = logits.masked_fill(hidden, NAN).requires_grad_()
            poisoned_ids, poisoned = ids.masked_fill(hidden, 10**6), other.masked_fill(hidden | (ids == -100), NAN)
            with unchanged(leaf, poisoned_ids, poisoned):
                out = segkernel.topk_divergence(leaf, poisoned_ids, poisoned, mask, **options)
            assert_near(out.double(), wanted.detach(), **accuracy(dtype))
            upstream = upstream.to(out.dtype).masked_fill(mask == 0, NAN)
            (grad,) = torch.autograd.grad(out, leaf, upstream)
            assert not grad[mask == 0].any()
            assert_gradient(grad, wanted_grad)


@both_kinds
def test_topk_divergence_of_all_tokens_is_the_divergence_over_the_vocabulary(kind):
    logits, others = random_logits(4, 7, dtype=torch.float64), random_logits(4, 7, dtype=torch.float64)
    ids = torch.stack([torch.randperm(7) for _ in range(4)])
    known = others.log_softmax(-1).gather(-1, ids)
    full = segkernel.token_divergences(logits, others, kind=kind).divergence
    assert_near(segkernel.topk_divergence(logits, ids, known, kind=kind), full, rtol=1e-9, atol=1e-12)
    # Fewer tokens tell no more: the divergence of a coarser partition is at most the full one.
    before = full
    for K in (5, 2, 1):
        out = segkernel.topk_divergence(logits, ids[:, :K], known[:, :K], kind=kind)
        assert (out >= 0).all()
        assert (out <= before + 1e-12).all()
        before = out


def test_topk_divergence_with_one_temperature_per_token():
    logits = random_logits(2, 3, 33, dtype=torch.float32)
    ids, other = teacher(2, 3, V=33, K=4)
    temperature = torch.tensor([[0.5, 1.0, 2.0], [1.5, 0.7, 1.0]])
    out = segkernel.topk_divergence(logits, ids, other, temperature=temperature)
    for b in range(2):
        for t in range(3):
            at = segkernel.topk_divergence(logits[b, t], ids[b, t], other[b, t], temperature=temperature[b, t].item())
            torch.testing.assert_close(out[b, t], at)


def test_topk_divergence_of_impossible_tokens():
    logits = torch.tensor([[0.0, -INF, 0.0, 0.0]] * 2)
    ids, other = torch.tensor([[1, 0], [1, -100]]), torch.tensor([[0.5, 0.25], [0.5, 0.0]]).log()
    out = segkernel.topk_divergence(logits.requires_grad_(), ids, other)
    # p = 0, 1/3, 2/3 against 1/2, 1/4, 1/4; and p = 0, 1 against 1/2, 1/2.
    assert out.tolist() == pytest.approx([math.log(4 / 3) / 3 + 2 / 3 * math.log(8 / 3), math.log(2)], rel=1e-5)
    (grad,) = torch.autograd.grad(out.sum(), logits)
    assert grad.isfinite().all()
    assert not grad[:, 1].any()
    assert segkernel.topk_divergence(logits, ids, other, kind="reverse_kl").tolist() == [INF, INF]
    zero = torch.tensor([[-INF, 0.25], [-INF, 0.0]])
    assert segkernel.topk_divergence(torch.zeros(2, 4), ids, zero)[0] == INF


def test_topk_divergence_of_a_teacher_whose_probabilities_sum_to_1_by_rounding_is_finite():
    logits = torch.zeros(1, 4, requires_grad=True)
    ids, other = torch.tensor([[0, 1]]), torch.tensor([[0.6, 0.4000001]]).log()
    out = segkernel.topk_divergence(logits, ids, other)
    expected = 0.25 * math.log(0.25 / 0.6) + 0.25 * math.log(0.25 / 0.4) + 0.5 * math.log(0.5 * 2**23)
    assert out.item() == pytest.approx(expected, rel=1e-5)
    assert torch.autograd.grad(out.sum(), logits)[0].isfinite().all()


def test_topk_divergence_of_masked_and_unknown_positions_is_0():
    logits, ids = random_logits(3, 33, dtype=torch.float32), torch.tensor([[1, 2], [-100, -100], [3, 4]])
    other = torch.full((3, 2), -1.0)
    out = segkernel.topk_divergence(logits, ids, other, torch.tensor([1, 1, 0]))
    assert out[0] != 0
    assert out[1:].tolist() == [0.0, 0.0]


def test_topk_divergence_writes_the_gradient_in_place():
    logits = random_logits(4, 1000, dtype=torch.float32)
    ids, other = teacher(4, V=1000, K=8)
    grads = []
    for inplace in (False, True):
        leaf = logits.clone().requires_grad_()
        out = segkernel.topk_divergence(leaf * 1, ids, other, inplace_backward=inplace)
        grads.append(torch.autograd.grad(out.sum(), leaf)[0])
    assert_identical(grads[1], grads[0])


def test_topk_divergence_second_derivatives_raise():
    logits = random_logits(2, 7, dtype=torch.float32).requires_grad_()
    out = segkernel.topk_divergence(logits, *teacher(2, V=7, K=2))
    (grad,) = torch.autograd.grad(out.sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives are not available"):
        grad.sum().backward()


def test_topk_divergence_compiles_as_one_graph():
    torch.compiler.reset()
    compiled = torch.compile(segkernel.topk_divergence, fullgraph=True, backend="aot_eager")
    logits, (ids, other) = random_logits(2, 3, 33, dtype=torch.float32), teacher(2, 3, V=33, K=4)
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    outs = [compiled(leaves[0], ids, other), segkernel.topk_divergence(leaves[1], ids, other)]
    assert_identical(outs[0], outs[1])
    grads = [torch.autograd.grad(out.sum(), leaf)[0] for out, leaf in zip(outs, leaves, strict=True)]
    assert_identical(grads[0], grads[1])


LOGITS, IDS, OTHER = torch.zeros(2, 5), torch.tensor([[0, 1], [2, 3]]), torch.full((2, 2), -1.0)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"ids": IDS[:1]}, ValueError, r"ids: expected \[2, 'K'\] like logits with K from 1 to 256, got .*\[1, 2\]"),
        ({"ids": IDS[:, :0]}, ValueError, r"ids: expected .*got int64 \[2, 0\]"),
        ({"ids": IDS.float()}, TypeError, r"ids: expected an integer tensor, got float32"),
        ({"other_logprobs": OTHER[:, :1]}, ValueError, r"other_logprobs: expected \[2, 2\] like ids, got .*\[2, 1\]"),
        ({"other_logprobs": IDS}, TypeError, r"other_logprobs: expected a floating-point tensor"),
        ({"other_logprobs": OTHER.clone().requires_grad_()}, ValueError, r"other_logprobs: expected a constant"),
        ({"kind": "js"}, ValueError, r"kind: expected one of 'kl', 'reverse_kl', got 'js'"),
        ({"tail": None}, TypeError, r"tail: expected True or False"),
        ({"temperature": -1.0}, ValueError, r"temperature: expected a finite number > 0"),
        ({"mask": torch.ones(3)}, ValueError, r"mask: expected \[2\]"),
    ],
)
def test_topk_divergence_refuses_invalid_arguments(changed, error, message):
    arguments = {"logits": LOGITS, "ids": IDS, "other_logprobs": OTHER, **changed}
    with pytest.raises(error, match=message):
        segkernel.topk_divergence(**arguments)


@pytest.mark.skipif(BACKEND == "cuda", reason="CUDA's operators give NaN")
def test_topk_divergence_refuses_ids_out_of_range():
    with pytest.raises(IndexError, match=r"ids: expected 0 <= id < 5, or -100 where there is none, got 5 at \[1, 0\]"):
        segkernel.topk_divergence(LOGITS, torch.tensor([[0, 1], [5, 3]]), OTHER)
