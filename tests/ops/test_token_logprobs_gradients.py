import pytest
import torch
from torch import Tensor

import segkernel
from segkernel import reference
from tests.helpers import BACKEND, EVERY_DTYPE, assert_identical, opcheck
from tests.ops.logprob_helpers import (
    BEYOND_ONE_PART,
    OUTPUTS,
    TRANSFORMS,
    VOCABULARIES,
    assert_gradient,
    chunk,
    random_labels,
    random_logits,
)

NAN, INF = float("nan"), float("inf")


def gradient(logits: Tensor, labels: Tensor, mask: Tensor | None, upstream: list[Tensor], **options) -> Tensor:
    """Gradient of the sum of both outputs, weighted by `upstream`."""
    logits = logits.detach().requires_grad_()
    outs = segkernel.token_logprobs(logits, labels, mask, entropy=True, **options)
    return torch.autograd.grad(outs, logits, upstream)[0]


def reference_gradient(logits, labels, mask, upstream, **options) -> Tensor:
    """Gradient of the reference in float64."""
    exact = logits.detach().double().requires_grad_()
    outs = reference.token_logprobs(exact, labels, mask, entropy=True, **options)
    return torch.autograd.grad(outs, exact, [gradient.double() for gradient in upstream])[0]


def random_upstream(*shape: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.randn(shape, dtype=torch.float64 if dtype == torch.float64 else torch.float32) for _ in range(2)]


def test_token_logprobs_gradient_literals():
    # Probabilities 1/2, 1/4, 1/4: d logprob = onehot - p, d entropy = -p (log p + H).
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    zero, one = torch.zeros(1), torch.ones(1)
    torch.testing.assert_close(
        gradient(logits, torch.tensor([1]), None, [one, zero]), torch.tensor([[-0.5, 0.75, -0.25]])
    )
    # H = 1.5 log 2, so -p (log p + H) = -log 2 (1/4, -1/8, -1/8).
    torch.testing.assert_close(
        gradient(logits, torch.tensor([1]), None, [zero, one]),
        torch.tensor([[-0.25, 0.125, 0.125]]) * torch.tensor(2.0).log(),
    )
    # A temperature of 1/2 makes p 4/6, 1/6, 1/6 and doubles the slope.
    torch.testing.assert_close(
        gradient(logits, torch.tensor([1]), None, [one, zero], temperature=0.5),
        2 * torch.tensor([[-4 / 6, 5 / 6, -1 / 6]]),
    )


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("V", [*VOCABULARIES, *BEYOND_ONE_PART])
def test_token_logprobs_gradient_matches_float64_reference(V, dtype, transform):
    T = 11 if V in VOCABULARIES else 3
    logits, labels = random_logits(3, T, V, dtype=dtype), random_labels(3, T, V=V)
    mask, upstream = torch.rand(3, T) < 0.7, random_upstream(3, T, dtype=dtype)
    expected = reference_gradient(logits, labels, mask, upstream, **transform)
    # Masked positions may hold any logits and upstream gradients.
    poisoned = logits.masked_fill(~mask[..., None], NAN)
    actual = gradient(poisoned, labels, mask, [g.masked_fill(~mask, NAN) for g in upstream], **transform)
    assert_gradient(actual, expected)
    assert not actual[~mask].any()


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
def test_token_logprobs_gradcheck(transform):
    logits = random_logits(2, 3, 5, dtype=torch.float64, spread=1.0).requires_grad_()
    labels, mask = random_labels(2, 3, V=5), torch.tensor([[1, 1, 0], [0, 1, 1]])

    def both(logits):
        return segkernel.token_logprobs(logits, labels, mask, entropy=True, **transform)

    assert torch.autograd.gradcheck(both, logits)
    assert torch.autograd.gradcheck(lambda x: segkernel.token_logprobs(x[:, :-1], labels[:, 1:], **transform), logits)


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_token_temperature_gradient(dtype):
    """Gradient under one temperature per row, in place and not; the temperatures of masked rows are not used."""
    logits, labels = random_logits(4, 3, 4099, dtype=dtype), random_labels(4, 3, V=4099)
    mask, upstream = torch.rand(4, 3) < 0.7, random_upstream(4, 3, dtype=dtype)
    temperature = torch.linspace(0.5, 1.5, 4)[:, None]
    expected = reference_gradient(logits, labels, mask, upstream, temperature=temperature.double(), softcap=5.0)
    options = {"temperature": temperature.masked_fill(~mask, NAN), "softcap": 5.0}
    actual = gradient(logits, labels, mask, upstream, **options)
    assert_gradient(actual, expected)
    in_place = logits.clone().requires_grad_() * 1
    outs = segkernel.token_logprobs(in_place, labels, mask, entropy=True, inplace_backward=True, **options)
    assert_identical(torch.autograd.grad(outs, in_place, upstream)[0], actual)


def test_token_logprobs_gradient_of_one_output_only():
    """A loss of the entropy only, or of the log-probability only, where both are returned."""
    logits, labels = random_logits(5, 33, dtype=torch.float32), random_labels(5, V=33)
    for output in range(2):
        leaf = logits.clone().requires_grad_()
        segkernel.token_logprobs(leaf, labels, entropy=True)[output].sum().backward()
        upstream = [torch.ones(5) if output == k else torch.zeros(5) for k in range(2)]
        assert_gradient(leaf.grad, reference_gradient(logits, labels, None, upstream))


def test_token_logprobs_gradient_of_more_outputs():
    """Log-probabilities and entropies have the same gradients; the other outputs are constants."""
    logits, labels = random_logits(5, 33, dtype=torch.float32).requires_grad_(), random_labels(5, V=33)
    outs = segkernel.token_logprobs(logits, labels, outputs=OUTPUTS)
    assert [out.requires_grad for out in outs] == [True, True, False, False, False]
    upstream = random_upstream(5, dtype=torch.float32)
    (actual,) = torch.autograd.grad(outs[:2], logits, upstream)
    assert_identical(actual, gradient(logits, labels, None, upstream))
    logprobs = segkernel.token_logprobs(logits, labels, outputs=("is_argmax",)).logprobs
    assert_identical(
        torch.autograd.grad(logprobs.sum(), logits)[0],
        torch.autograd.grad(segkernel.token_logprobs(logits, labels).sum(), logits)[0],
    )


@pytest.mark.parametrize("V", [7, 33, 4099])
def test_token_logprobs_gradient_of_impossible_tokens_is_0(V):
    """The gradient of -inf logits is 0, whether or not the label is one of them."""
    logits = random_logits(4, V, dtype=torch.float32)
    logits[:, 1::2] = -INF
    logits[3, :-1] = -INF
    labels = torch.tensor([0, 1, 2, V - 1])
    upstream = random_upstream(4, dtype=torch.float32)
    actual = gradient(logits, labels, None, upstream)
    assert actual.isfinite().all()
    assert_gradient(actual, reference_gradient(logits, labels, None, upstream))
    assert actual[3].abs().max() < 1e-6


def test_token_logprobs_gradient_is_nan_for_rows_that_are_no_distribution():
    logits, labels = random_logits(6, 33, dtype=torch.float32), random_labels(6, V=33)
    upstream = random_upstream(6, dtype=torch.float32)
    clean = gradient(logits, labels, None, upstream)
    logits[1, 4], logits[2, 32], logits[4] = NAN, INF, -INF
    actual = gradient(logits, labels, None, upstream)
    assert_identical(actual[[0, 3, 5]], clean[[0, 3, 5]])
    # Masked rows do not affect the others.
    mask = torch.tensor([1, 0, 0, 1, 0, 1])
    assert_identical(gradient(logits, labels, mask, upstream), torch.where(mask[:, None] != 0, clean, 0.0))


@pytest.mark.parametrize("V", [31, *BEYOND_ONE_PART])
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_token_logprobs_gradient_of_a_view(dtype, V):
    """The rows of the logits have other strides than those of the gradient."""
    logits, labels = random_logits(2, 6, V, dtype=dtype).requires_grad_(), random_labels(2, 6, V=V)
    upstream = random_upstream(2, 5, dtype=dtype)
    outs = segkernel.token_logprobs(logits[:, :-1], labels[:, 1:], entropy=True)
    (actual,) = torch.autograd.grad(outs, logits, upstream)
    alone = gradient(logits[:, :-1].contiguous(), labels[:, 1:].contiguous(), None, upstream)
    assert_identical(actual[:, :-1], alone)
    assert not actual[:, -1].any()


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_token_logprobs_gradient_has_the_same_bits_with_any_thread_count(dtype, threads):
    logits, labels = random_logits(64, 4099, dtype=dtype), random_labels(64, V=4099)
    mask, upstream = torch.rand(64) < 0.6, random_upstream(64, dtype=dtype)
    gradients = []
    for number in (1, 2):
        torch.set_num_threads(number)
        gradients.append(gradient(logits, labels, mask, upstream))
    assert_identical(gradients[1], gradients[0])


@pytest.mark.parametrize("V", [257, *BEYOND_ONE_PART])
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_token_logprobs_gradient_has_the_same_bits_in_any_batch(dtype, V):
    logits, labels = random_logits(9, V, dtype=dtype), random_labels(9, V=V)
    upstream = random_upstream(9, dtype=dtype)
    together = gradient(logits, labels, None, upstream)
    for b in range(9):
        alone = gradient(logits[b].clone(), labels[b], None, [g[b] for g in upstream])
        assert_identical(alone, together[b])


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_token_logprobs_gradient_of_labels_at_chunk_edges(dtype):
    """On CUDA a row's chunks, which begin at 16-byte boundaries of its memory, belong to several blocks.

    V is odd and just below two chunks, so most rows begin before their first logit and end past the second chunk.
    """
    length = chunk(dtype)
    V = 2 * length - 1
    labels = torch.tensor([0, length - 2, length - 1, length, length + 1, V - 2, V - 1, V - 1])
    logits = random_logits(len(labels), V, dtype=dtype)
    upstream = random_upstream(len(labels), dtype=dtype)
    assert_gradient(gradient(logits, labels, None, upstream), reference_gradient(logits, labels, None, upstream))
    in_place = logits.clone().requires_grad_() * 1
    log_probs = segkernel.token_logprobs(in_place, labels, inplace_backward=True)
    (actual,) = torch.autograd.grad(log_probs, in_place, upstream[0])
    no_entropy = [upstream[0], torch.zeros_like(upstream[1])]
    assert_gradient(actual, reference_gradient(logits, labels, None, no_entropy))


def test_token_logprobs_gradient_has_the_same_bits_among_few_rows_and_many():
    """The more rows, the fewer CUDA blocks per row: here one per chunk, two for three chunks, and one per row."""
    V = 2 * chunk(torch.bfloat16) + 3
    few, labels = random_logits(4, V, dtype=torch.bfloat16), random_labels(4, V=V)
    upstream = random_upstream(4, dtype=torch.bfloat16)
    expected = gradient(few, labels, None, upstream)
    for repeats in (200, 512):
        kept = torch.zeros(4, repeats, dtype=torch.bool)
        kept[:, 0] = kept[:, -1] = True
        many = few[:, None].expand(4, repeats, V)
        weights = [g[:, None].expand(4, repeats) for g in upstream]
        actual = gradient(many, labels[:, None].expand(4, repeats), kept, weights)
        assert_identical(actual[kept].view(4, 2, V), expected[:, None].expand(4, 2, V))
        assert not actual[~kept].any()


@pytest.mark.parametrize("V", [1, 7, 31, *BEYOND_ONE_PART])
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_inplace_backward_writes_the_logits_only(dtype, V):
    """The gradient in the storage of a view does not change the elements between the view's rows."""
    leaf, labels = random_logits(4, V + 6, dtype=dtype).requires_grad_(), random_labels(4, V=V)
    mask = torch.tensor([True, False, True, True])
    wide = leaf * 1
    logits = wide[:, 3 : V + 3]
    before = wide.detach().clone()
    out = segkernel.token_logprobs(logits, labels, mask, inplace_backward=True)
    (actual,) = torch.autograd.grad(out.sum(), logits)
    upstream = [torch.ones_like(out), torch.zeros_like(out)]
    assert_gradient(actual, reference_gradient(before[:, 3 : V + 3], labels, mask, upstream))
    outside = torch.ones(V + 6, dtype=torch.bool)
    outside[3 : V + 3] = False
    assert_identical(wide.detach()[:, outside], before[:, outside])


@pytest.mark.skipif(BACKEND == "cpu", reason="the CPU raises before any gradient")
def test_label_out_of_range_has_no_gradient():
    logits, labels = random_logits(3, 33, dtype=torch.float32), torch.tensor([4, 33, 5])
    upstream, good = torch.randn(2, 3), [0, 2]
    actual = gradient(logits, labels, None, list(upstream))
    assert actual[1].isnan().all()
    assert_gradient(actual[good], reference_gradient(logits[good], labels[good], None, list(upstream[:, good])))


def test_token_logprobs_refuse_second_derivatives():
    logits, labels = random_logits(3, 7, dtype=torch.float64).requires_grad_(), random_labels(3, V=7)

    def second_derivative():
        (first,) = torch.autograd.grad(
            segkernel.token_logprobs(logits, labels).sum(), logits, create_graph=True
        )  # fmt: skip
        torch.autograd.grad(first.square().sum(), logits)

    with pytest.raises(RuntimeError, match=r"token_logprobs.*(second|twice)"):
        second_derivative()


@pytest.mark.parametrize("V", [33, *BEYOND_ONE_PART])
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("entropy", [False, True])
def test_inplace_backward_gives_the_gradient_in_the_logits_storage(entropy, dtype, V):
    leaf, labels = random_logits(2, 5, V, dtype=dtype).requires_grad_(), random_labels(2, 5, V=V)
    mask = torch.rand(2, 5) < 0.7
    count = 1 + entropy
    upstream = random_upstream(2, 5, dtype=dtype)[:count]

    def outputs(logits: Tensor, inplace_backward: bool) -> tuple:
        outs = segkernel.token_logprobs(
            logits, labels, mask, entropy=entropy, temperature=0.9, inplace_backward=inplace_backward
        )
        return outs if entropy else (outs,)

    logits = leaf * 1
    (expected,) = torch.autograd.grad(outputs(logits, inplace_backward=False), logits, upstream)
    outs = outputs(logits, inplace_backward=True)
    assert_identical(outs, outputs(logits, inplace_backward=False))
    (actual,) = torch.autograd.grad(outs, logits, upstream)
    assert actual.data_ptr() == logits.data_ptr()
    assert_identical(actual, expected)
    assert_identical(logits.detach(), expected)

    # The gradient also reaches the inputs of the logits.
    (through,) = torch.autograd.grad(outputs(leaf * 2, inplace_backward=True), leaf, upstream)
    (wanted,) = torch.autograd.grad(outputs(leaf * 2, inplace_backward=False), leaf, upstream)
    assert_identical(through, wanted)


def test_inplace_backward_of_poisoned_logits():
    leaf, labels = random_logits(4, 33, dtype=torch.float32).requires_grad_(), random_labels(4, V=33)
    mask = torch.tensor([True, False, True, False])
    logits = leaf.masked_fill(~mask[:, None], NAN)
    out = segkernel.token_logprobs(logits, labels, mask, inplace_backward=True)
    (actual,) = torch.autograd.grad(out.sum(), logits)
    assert actual.isfinite().all()
    assert not actual[1::2].any()


def test_inplace_backward_refuses_a_leaf():
    logits, labels = random_logits(4, 33, dtype=torch.float32).requires_grad_(), random_labels(4, V=33)
    before = logits.detach().clone()
    with pytest.raises((RuntimeError, ValueError), match=r"inplace_backward.*leaf"):
        segkernel.token_logprobs(logits, labels, inplace_backward=True).sum().backward()
    with pytest.raises((RuntimeError, ValueError), match=r"inplace_backward.*leaf"):
        segkernel.token_logprobs(logits[:-1], labels[:-1], inplace_backward=True).sum().backward()
    assert_identical(logits.detach(), before)
    assert logits.grad is None


def test_inplace_backward_refuses_changed_logits():
    leaf, labels = random_logits(4, 33, dtype=torch.float32).requires_grad_(), random_labels(4, V=33)
    for inplace_backward in (False, True):
        logits = leaf * 1
        out = segkernel.token_logprobs(logits, labels, inplace_backward=inplace_backward)
        logits.mul_(2)
        changed = logits.detach().clone()
        with pytest.raises(RuntimeError, match=r"modified by an inplace operation|changed|version"):
            torch.autograd.grad(out.sum(), leaf)
        assert_identical(logits.detach(), changed)


def test_inplace_backward_refuses_a_second_reader_of_the_logits():
    """Another operation that saved the logits must not read the gradient in their place."""
    leaf, labels = random_logits(4, 33, dtype=torch.float32).requires_grad_(), random_labels(4, V=33)
    logits = leaf * 1
    saved = logits.square().sum()
    out = segkernel.token_logprobs(logits, labels, inplace_backward=True)
    torch.autograd.grad(out.sum(), logits, retain_graph=True)
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation"):
        torch.autograd.grad(saved, leaf)
    # A second backward pass of the same output is refused, too.
    with pytest.raises(RuntimeError, match=r"modified by an inplace operation|changed|version|second|twice"):
        torch.autograd.grad(out.sum(), logits)


def test_token_logprobs_without_gradient():
    logits, labels = random_logits(4, 33, dtype=torch.float32), random_labels(4, V=33)
    assert not segkernel.token_logprobs(logits, labels).requires_grad
    assert not segkernel.token_logprobs(logits, labels, inplace_backward=True).requires_grad
    with torch.no_grad():
        assert not segkernel.token_logprobs(logits.requires_grad_(), labels).requires_grad


def test_token_logprobs_opcheck():
    logits, labels = random_logits(2, 5, 33, dtype=torch.float32), random_labels(2, 5, V=33)
    mask = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 1, 1, 0]])
    for leaf in (logits, logits.clone().requires_grad_(), logits.double().requires_grad_()):
        opcheck(lambda leaf=leaf: segkernel.token_logprobs(leaf, labels))
        opcheck(lambda leaf=leaf: segkernel.token_logprobs(leaf, labels, mask, entropy=True, **TRANSFORMS[-1]))
    opcheck(lambda: segkernel.token_logprobs(logits.requires_grad_(), labels, mask, outputs=OUTPUTS))
    opcheck(lambda: segkernel.token_logprobs(logits.requires_grad_(), labels, temperature=torch.tensor([[0.5], [2]])))


@pytest.mark.compiles
@pytest.mark.parametrize("outputs", [(), OUTPUTS])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_token_logprobs_compile_as_one_graph(backend, outputs):
    torch.compiler.reset()

    def function(logits, labels, mask):
        temperature = 1 + 0.5 * mask[:, :1].float()
        return segkernel.token_logprobs(
            logits[:, :-1], labels[:, 1:], mask[:, 1:], outputs=outputs, temperature=temperature
        )

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    for T in (6, 9):  # the second length makes the size dynamic
        logits, labels = random_logits(2, T, 33, dtype=torch.float32), random_labels(2, T, V=33)
        mask = torch.rand(2, T) < 0.7
        leaves = [logits.clone().requires_grad_() for _ in range(2)]
        count = 2 if outputs else 1
        upstream = [torch.randn(2, T - 1) for _ in range(count)]
        outs = [compiled(leaves[0], labels, mask), function(leaves[1], labels, mask)]
        assert_identical(outs[0], outs[1])
        gradients = [
            torch.autograd.grad(out[:count], leaf, upstream)[0] for out, leaf in zip(outs, leaves, strict=True)
        ]
        assert_identical(gradients[0], gradients[1])
