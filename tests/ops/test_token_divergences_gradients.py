import pytest
import torch
from torch import Tensor

import segkernel
from segkernel import reference
from tests.helpers import EVERY_DTYPE, assert_identical, opcheck
from tests.ops.logprob_helpers import TRANSFORMS, assert_gradient, random_labels, random_logits
from tests.ops.test_token_divergences import INF, NAN, TRANSFORMS_OF_PAIRS, VOCABULARIES, every_kind, pair


def differentiable(out) -> list[Tensor]:
    return [out.divergence, out.entropy] + ([] if out.logprobs is None else [out.logprobs])


def gradient(logits, others, mask, labels, upstream, **options) -> Tensor:
    logits = logits.detach().requires_grad_()
    outs = differentiable(segkernel.token_divergences(logits, others, mask, labels, **options))
    return torch.autograd.grad(outs, logits, upstream[: len(outs)])[0]


def reference_gradient(logits, others, mask, labels, upstream, **options) -> Tensor:
    exact = logits.detach().double().requires_grad_()
    outs = differentiable(reference.token_divergences(exact, others.double(), mask, labels, **options))
    return torch.autograd.grad(outs, exact, [g.double() for g in upstream[: len(outs)]])[0]


def random_upstream(*shape, dtype) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64 if dtype == torch.float64 else torch.float32) for _ in range(3)]


def test_token_divergences_gradient_literals():
    logits, others = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.25, 0.5]]).log()
    log2, one = torch.tensor(2.0).log(), [torch.ones(1), torch.zeros(1)]
    wanted = {
        # p (log p / q - D) with D = log(2) / 4: 1/2 (1 - 1/4), 1/4 (0 - 1/4), 1/4 (-1 - 1/4) of log 2.
        "kl": log2 * torch.tensor([[6.0, -1.0, -5.0]]) / 16,
        "reverse_kl": torch.tensor([[0.25, 0.0, -0.25]]),
        # Signs 1, 0, -1, whose mean under p is 1/4.
        "tv": torch.tensor([[0.5 * 0.75, -0.25 * 0.25, -0.25 * 1.25]]) / 2,
    }
    for kind, expected in wanted.items():
        torch.testing.assert_close(gradient(logits, others, None, None, one, kind=kind), expected)


def log_probabilities(logits, *, temperature=1.0, logit_scale=1.0, softcap=None) -> Tensor:
    z = logits.double() * logit_scale
    return ((z if softcap is None else softcap * torch.tanh(z / softcap)) / temperature).log_softmax(-1)


@every_kind
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("V", VOCABULARIES)
def test_token_divergences_gradient_matches_float64_reference(V, dtype, kind):
    logits, others = pair(2, 3, V, dtype=dtype)
    labels, mask = random_labels(2, 3, V=V), torch.tensor([[1, 0, 1], [0, 1, 1]]) != 0
    upstream = random_upstream(2, 3, dtype=dtype)
    poisoned = [x.masked_fill(~mask[..., None], NAN) for x in (logits, others)]
    poisoned_upstream = [g.masked_fill(~mask, NAN) for g in upstream]
    for transform in TRANSFORMS_OF_PAIRS:
        options = {"kind": kind, "beta": 0.3, **transform}
        expected = reference_gradient(logits, others, mask, labels, upstream, **options)
        actual = gradient(*poisoned, mask, labels, poisoned_upstream, **options)
        assert not actual[~mask].any()
        if kind == "tv":  # the sign of p - q is undecided where rounding exceeds the difference
            log_ratios = log_probabilities(logits, **transform) - log_probabilities(others, **transform)
            undecided = log_ratios.abs() < 1e-5
            assert undecided.float().mean() < 0.01 or V == 1
            actual, expected = (x.masked_fill(undecided, 0) for x in (actual, expected))
        assert_gradient(actual, expected)


@every_kind
def test_token_divergences_gradcheck(kind):
    logits, others = pair(3, 4, dtype=torch.float64, spread=1.0)
    labels, mask = random_labels(3, V=4), torch.tensor([1, 0, 1])

    def outs(x):
        out = segkernel.token_divergences(x, others, mask, labels, kind=kind, beta=0.7, **TRANSFORMS[-1])
        return tuple(differentiable(out))

    assert torch.autograd.gradcheck(outs, logits.requires_grad_())


@every_kind
def test_token_divergences_gradient_of_one_output_only(kind):
    logits, others = pair(5, 33, dtype=torch.float32)
    labels = random_labels(5, V=33)
    if kind == "tv":
        others = logits.roll(1, -1)
    for output in range(3):
        leaf = logits.clone().requires_grad_()
        differentiable(segkernel.token_divergences(leaf, others, None, labels, kind=kind))[output].sum().backward()
        upstream = [torch.ones(5) if output == k else torch.zeros(5) for k in range(3)]
        assert_gradient(leaf.grad, reference_gradient(logits, others, None, labels, upstream, kind=kind))


@every_kind
def test_token_divergences_gradient_of_equal_models_is_0(kind):
    logits = random_logits(4, 4099, dtype=torch.float32)
    actual = gradient(logits, logits.clone(), None, None, [torch.ones(4), torch.zeros(4)], kind=kind)
    assert actual.abs().max() < 1e-7
    if kind == "tv":
        assert not actual.any()


@every_kind
@pytest.mark.parametrize("V", [6, 4100])
def test_token_divergences_gradient_of_impossible_tokens_is_0(V, kind):
    """Tokens that both exclude; and a divergence that is infinite, but whose weight in the loss is 0."""
    logits, others = pair(2, V, dtype=torch.float32)
    logits[:, ::2] = others[:, ::2] = -INF
    others[1, 1] = -INF
    upstream = [torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])]
    actual = gradient(logits, others, None, None, upstream, kind=kind)
    assert actual.isfinite().all()
    assert not actual[:, ::2].any()
    allowed = [x[:1, 1::2].contiguous() for x in (logits, others)]
    alone = gradient(*allowed, None, None, [g[:1] for g in upstream], kind=kind)
    torch.testing.assert_close(actual[:1, 1::2], alone, rtol=1e-4, atol=1e-7)
    leaf = logits[1:].detach().requires_grad_()
    entropy = segkernel.token_divergences(leaf, others[1:], kind=kind).entropy
    torch.testing.assert_close(actual[1:], torch.autograd.grad(0.5 * entropy.sum(), leaf)[0], rtol=1e-5, atol=1e-8)


@every_kind
def test_token_divergences_gradient_is_nan_for_rows_that_are_no_distribution(kind):
    logits, others = pair(5, 33, dtype=torch.float32)
    one = [torch.ones(5), torch.zeros(5)]
    clean = gradient(logits, others, None, None, one, kind=kind)
    logits[1, 4], others[2, 32], others[3] = NAN, NAN, -INF
    actual = gradient(logits, others, None, None, one, kind=kind)
    assert actual[1:4].isnan().any(-1).all()
    assert_identical(actual[[0, 4]], clean[[0, 4]])
    mask = torch.tensor([1, 0, 0, 0, 1])
    assert_identical(gradient(logits, others, mask, None, one, kind=kind), torch.where(mask[:, None] != 0, clean, 0.0))


@every_kind
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_token_divergences_write_the_gradient_in_place_with_the_same_bits(dtype, kind):
    logits, others = pair(2, 5, 4099, dtype=dtype)
    labels, upstream = random_labels(2, 4, V=4099), random_upstream(2, 4, dtype=dtype)
    found = []
    for inplace in (False, True):
        leaf = logits.clone().requires_grad_()
        computed = leaf * 1
        out = segkernel.token_divergences(
            computed[:, :-1], others[:, 1:], None, labels, kind=kind, inplace_backward=inplace
        )
        storage = computed.data_ptr()
        (grad,) = torch.autograd.grad(differentiable(out), computed, upstream)
        found.append(grad)
        if inplace:
            view = computed.detach()[:, :-1]
            assert view.data_ptr() == storage
            assert_identical(view, grad[:, :-1])
    assert_identical(found[1], found[0])


def test_token_divergences_inplace_backward_refuses_what_it_would_corrupt():
    logits, others = pair(4, 33, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"inplace_backward.*leaf"):
        segkernel.token_divergences(logits.clone().requires_grad_(), others, inplace_backward=True)
    leaf = logits.clone().requires_grad_()
    computed = leaf * 1
    with pytest.raises(ValueError, match=r"inplace_backward: expected other_logits in another storage"):
        segkernel.token_divergences(computed, computed.detach(), inplace_backward=True)
    saved = computed.square().sum()
    out = segkernel.token_divergences(computed, others, inplace_backward=True).divergence
    torch.autograd.grad(out.sum(), computed, retain_graph=True)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation"):
        torch.autograd.grad(saved, leaf)


def test_token_divergences_second_derivatives_raise():
    logits, others = pair(3, 7, dtype=torch.float32)
    logits.requires_grad_()
    out = segkernel.token_divergences(logits, others).divergence
    (grad,) = torch.autograd.grad(out.sum(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match=r"token_divergences: second derivatives are not available"):
        grad.sum().backward()


def test_token_divergences_other_outputs_are_constants():
    logits, others = pair(3, 7, dtype=torch.float32)
    out = segkernel.token_divergences(logits.requires_grad_(), others, None, random_labels(3, V=7))
    assert out.divergence.requires_grad
    assert out.entropy.requires_grad
    assert out.logprobs.requires_grad
    assert not out.other_entropy.requires_grad
    assert not out.other_logprobs.requires_grad
    with torch.no_grad():  # where nothing could lose its gradient
        assert not segkernel.token_divergences(logits, others.requires_grad_()).divergence.requires_grad


def test_token_divergences_opcheck():
    logits, others = pair(2, 5, 33, dtype=torch.float32)
    labels, mask = random_labels(2, 5, V=33), torch.tensor([[1, 1, 0, 1, 1], [1, 0, 1, 1, 0]])
    opcheck(lambda: segkernel.token_divergences(logits, others))
    leaf = logits.clone().requires_grad_()
    opcheck(lambda: segkernel.token_divergences(leaf, others, mask, labels, kind="js", **TRANSFORMS[-1]))


@pytest.mark.compiles
def test_token_divergences_compile_as_one_graph():
    torch.compiler.reset()

    def outputs(logits, others, mask):
        return segkernel.token_divergences(logits[:, :-1], others[:, 1:], mask[:, 1:], kind="js").divergence

    compiled = torch.compile(outputs, fullgraph=True, backend="aot_eager")
    for T in (4, 6):  # the second length makes the size dynamic
        logits, others = pair(2, T, 33, dtype=torch.float32)
        mask, leaves = torch.rand(2, T) < 0.7, [logits.clone().requires_grad_() for _ in range(2)]
        outs = [compiled(leaves[0], others, mask), outputs(leaves[1], others, mask)]
        assert_identical(outs[0], outs[1])
        gradients = [torch.autograd.grad(out.sum(), leaf)[0] for out, leaf in zip(outs, leaves, strict=True)]
        assert_identical(gradients[0], gradients[1])
