import math

import pytest
import torch

import segkernel
from segkernel import reference
from tests.helpers import BACKEND, DEVICE, EVERY_DTYPE, assert_identical, assert_near, unchanged
from tests.ops.logprob_helpers import (
    BEYOND_ONE_PART,
    TRANSFORMS,
    accuracy,
    assert_gradient,
    chunk,
    random_labels,
    random_logits,
)

NAN, INF = float("nan"), float("inf")
KINDS = ("kl", "reverse_kl", "js", "tv")
every_kind = pytest.mark.parametrize("kind", KINDS)
# Shorter than two vectors, whole vectors, whole and partial chunks of the CPU's kernels.
VOCABULARIES = (1, 7, 64, 257, 4099, *BEYOND_ONE_PART)
TRANSFORMS_OF_PAIRS = (TRANSFORMS[0], TRANSFORMS[-1])


def pair(*shape, dtype, spread=2.0, distance=0.5):
    """Logits of two models that agree in part, as a student and its teacher do."""
    logits = random_logits(*shape, dtype=torch.float32, spread=spread)
    return logits.to(dtype), (logits + distance * torch.randn(shape)).to(dtype)


def divergence(p, q, kind, **options):
    """Divergence of rows of probabilities."""
    log_p, log_q = (torch.tensor(row, dtype=torch.float64).log() for row in (p, q))
    return segkernel.token_divergences(log_p, log_q, kind=kind, **options).divergence.tolist()


def sum_of_differentiable(out):
    return sum(values.sum() for values in (out.divergence, out.entropy, out.logprobs))


def test_token_divergences_literals():
    p, q = [[0.5, 0.25, 0.25]], [[0.25, 0.25, 0.5]]
    # Half of p doubles q, a quarter halves it: 1/2 log 2 - 1/4 log 2. By symmetry the same in the other direction.
    assert divergence(p, q, "kl") == pytest.approx([0.25 * math.log(2)], rel=1e-12)
    assert divergence(p, q, "reverse_kl") == pytest.approx([0.25 * math.log(2)], rel=1e-12)
    assert divergence(p, q, "tv") == pytest.approx([0.25], rel=1e-12)
    # m = (3/8, 1/4, 3/8); KL(p || m) = 1/2 log(4/3) + 1/4 log(2/3).
    of_mixture = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3)
    assert divergence(p, q, "js") == pytest.approx([of_mixture], rel=1e-12)
    p, q = [[0.75, 0.25]], [[0.5, 0.5]]
    assert divergence(p, q, "kl") == pytest.approx([0.75 * math.log(1.5) + 0.25 * math.log(0.5)], rel=1e-12)
    assert divergence(p, q, "reverse_kl") == pytest.approx([0.5 * math.log(2 / 3) + 0.5 * math.log(2)], rel=1e-12)
    # beta = 1/4: m = q / 4 + 3/4 p = (11/16, 5/16).
    js = 0.25 * (0.5 * math.log(8 / 11) + 0.5 * math.log(8 / 5)) + 0.75 * (
        0.75 * math.log(12 / 11) + 0.25 * math.log(0.8)
    )
    assert divergence(p, q, "js", beta=0.25) == pytest.approx([js], rel=1e-12)
    # The ends of beta, as in TRL's generalized_jsd_loss.
    assert divergence(p, q, "js", beta=0) == divergence(p, q, "reverse_kl")
    assert divergence(p, q, "js", beta=1.0) == divergence(p, q, "kl")


def test_token_divergences_give_entropies_and_logprobs_of_both_models():
    p, q = torch.tensor([[0.5, 0.25, 0.25]] * 2), torch.tensor([[0.5, 0.5, 0.0]] * 2)
    for kind in KINDS:
        out = segkernel.token_divergences(p.log() + 3, q.log() - 2, None, torch.tensor([1, 2]), kind=kind)
        torch.testing.assert_close(out.entropy, torch.full((2,), 1.5 * math.log(2)))
        torch.testing.assert_close(out.other_entropy, torch.full((2,), math.log(2)))
        torch.testing.assert_close(out.logprobs, torch.full((2,), -2 * math.log(2)))
        torch.testing.assert_close(out.other_logprobs, torch.tensor([-math.log(2), -INF]))
        without = segkernel.token_divergences(p.log(), q.log(), kind=kind)
        assert without.logprobs is None
        assert without.other_logprobs is None
        assert all(values.dtype == torch.float32 for values in out)


@every_kind
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("V", VOCABULARIES)
def test_token_divergences_match_float64_reference(V, dtype, kind):
    logits, others = pair(2, 3, V, dtype=dtype)
    labels, mask = random_labels(2, 3, V=V), torch.tensor([[1, 0, 1], [0, 1, 1]]) != 0
    poisoned = [x.masked_fill(~mask[..., None], NAN) for x in (logits, others)]
    for transform in TRANSFORMS_OF_PAIRS:
        options = {"kind": kind, "beta": 0.3, **transform}
        expected = reference.token_divergences(logits.double(), others.double(), mask, labels, **options)
        out = segkernel.token_divergences(*poisoned, mask, labels, **options)
        for found, wanted in zip(out, expected, strict=True):
            assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert_near(found.double(), wanted, **accuracy(dtype))
        without_labels = segkernel.token_divergences(*poisoned, mask, **options)
        assert_identical(tuple(without_labels[:3]), tuple(out[:3]))


@every_kind
@pytest.mark.parametrize("transform", [{}, {"softcap": 5.0, "logit_scale": 1.5}], ids=str)
def test_token_divergences_with_one_temperature_per_token(kind, transform):
    """The bits of each token's temperature as a scalar, in outputs and gradients."""
    logits, others = pair(2, 3, 4099, dtype=torch.bfloat16)
    labels, mask = random_labels(2, 3, V=4099), torch.tensor([[1, 1, 0], [1, 1, 1]])
    temperature = torch.tensor([[0.5, 1.0, NAN], [2.0, 0.7, 1.0]])  # not used at masked positions
    leaf = logits.clone().requires_grad_()
    out = segkernel.token_divergences(leaf, others, mask, labels, kind=kind, temperature=temperature, **transform)
    sum_of_differentiable(out).backward()
    for b, t in mask.nonzero().tolist():
        row = logits[b, t].clone().requires_grad_()
        scalar = {"temperature": temperature[b, t].item(), **transform}
        one = segkernel.token_divergences(row, others[b, t], None, labels[b, t], kind=kind, **scalar)
        assert_identical([values[b, t].detach() for values in out], [values.detach() for values in one])
        sum_of_differentiable(one).backward()
        assert_identical(leaf.grad[b, t], row.grad)
    per_row = segkernel.token_divergences(logits, others, mask, kind=kind, temperature=torch.tensor([[0.5], [2.0]]))
    assert_identical(
        per_row.divergence[0, 0],
        segkernel.token_divergences(logits[0, 0], others[0, 0], kind=kind, temperature=0.5).divergence,
    )


@pytest.mark.skipif(BACKEND != "cpu", reason="CUDA's operators give NaN")
@pytest.mark.parametrize("labels", [None, torch.tensor([0, 1])])
def test_token_divergences_refuse_a_temperature_that_is_not_positive(labels):
    with pytest.raises(ValueError, match=r"temperature: expected a finite number > 0, got 0 at \[1\]"):
        segkernel.token_divergences(X, X.clone(), None, labels, temperature=torch.tensor([1.0, 0.0]))


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_token_divergences_of_near_models_at_vocabulary_151936(kind, dtype):
    logits, others = pair(2, 151936, dtype=dtype, spread=3.0, distance=0.02)
    out = segkernel.token_divergences(logits, others, kind=kind).divergence
    expected = reference.token_divergences(logits.double(), others.double(), kind=kind).divergence
    assert_near(out.double(), expected, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jensen_shannon_divergence_of_near_models_is_not_lost_in_rounding(beta):
    """It is 1e-5 to 5e-5 here: second order in log(p / q), while its terms are of first order."""
    logits, others = pair(32, 4099, dtype=torch.float32, spread=3.0, distance=0.02)
    out = segkernel.token_divergences(logits, others, kind="js", beta=beta).divergence
    expected = reference.token_divergences(logits.double(), others.double(), kind="js", beta=beta).divergence
    assert_near(out.double(), expected, rtol=0, atol=3e-7)


@every_kind
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("V", [5, 1024, 4099])
def test_token_divergences_of_equal_models_are_0(V, dtype, kind):
    logits = random_logits(4, V, dtype=dtype)
    out = segkernel.token_divergences(logits, logits.clone(), kind=kind)
    assert out.divergence.min() >= 0
    assert out.divergence.max() <= 1e-6
    assert_identical(out.entropy, out.other_entropy)


@every_kind
@pytest.mark.parametrize("offset", [-1e4, -300.0, 1e4])
def test_token_divergences_do_not_depend_on_an_offset_of_the_logits(offset, kind):
    logits, others = pair(3, 1000, dtype=torch.float32)
    shifted = logits + offset  # rounded here, so this is what both are given
    expected = reference.token_divergences(shifted.double(), others.double(), kind=kind).divergence
    assert_near(
        segkernel.token_divergences(shifted, others, kind=kind).divergence.double(), expected, atol=2e-5, rtol=0
    )


@every_kind
@pytest.mark.parametrize("V", [33, 4099])
def test_token_divergences_with_a_maximum_that_rises_along_the_row(V, kind):
    ramp, single = torch.linspace(-40, 25, V), torch.zeros(V).index_fill(0, torch.tensor([V - 2]), 60.0)
    rows = torch.stack([ramp, ramp.flip(0), single, torch.zeros(V), ramp])
    others = torch.stack([ramp / 2, ramp, single / 2, single, ramp.flip(0)])
    expected = reference.token_divergences(rows.double(), others.double(), kind=kind)
    out = segkernel.token_divergences(rows, others, kind=kind)
    for found, wanted in zip(out[:3], expected[:3], strict=True):
        assert_near(found.double(), wanted, atol=2e-5, rtol=1e-6)


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("V", [6, 1024, 4100])
def test_token_divergences_of_impossible_tokens(V, dtype):
    """-inf in both rows contributes 0; -inf in one row only makes the divergence in the other's direction infinite."""
    logits, others = pair(3, V, dtype=dtype)
    logits[:, ::2] = -INF
    others[0, ::2] = -INF  # the same tokens
    others[2, ::2] = -INF
    others[2, 1] = -INF  # one that the first model allows
    half = reference.token_divergences(logits[:1, 1::2].double(), others[:1, 1::2].double())
    for kind in KINDS:
        out = segkernel.token_divergences(logits, others, kind=kind)
        expected = reference.token_divergences(logits.double(), others.double(), kind=kind)
        assert out.entropy.isfinite().all()
        assert out.other_entropy.isfinite().all()
        if kind == "kl":
            assert_near(out.divergence[:1].double(), half.divergence, **accuracy(dtype))
            assert out.divergence[1].isfinite()
            assert out.divergence[2] == INF
        elif kind == "reverse_kl":
            assert out.divergence[0].isfinite()
            assert out.divergence[1] == INF
            assert out.divergence[2].isfinite()
        if kind != "js":  # whose reference takes a logarithm of 0
            assert_near(out.divergence.double(), expected.divergence, **accuracy(dtype))
        else:
            assert (out.divergence > 0).all()
            assert (out.divergence <= math.log(2) + 1e-6).all()


def test_token_divergence_of_an_excluded_token_is_infinite_however_small_its_probability():
    logits = torch.zeros(2, 3000)
    logits[:, 1] = -300.0  # e^-300 is no float32
    others = torch.zeros(2, 3000)
    others[0, 1] = -INF
    assert segkernel.token_divergences(logits, others).divergence.tolist()[0] == INF
    assert segkernel.token_divergences(logits, others).divergence[1].isfinite()
    assert segkernel.token_divergences(others, logits, kind="reverse_kl").divergence.tolist()[0] == INF


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("excluded", [-INF, -1e4, -90.0])  # e^-90 is far below the rounding of any sum
@pytest.mark.parametrize("n", [1, 7, 700])
def test_jensen_shannon_divergence_of_tokens_that_one_model_excludes(n, excluded, dtype):
    # p = (1/2, 1/2, 0), q = (0, 1/2, 1/2), m = q / 4 + 3/4 p = (3/8, 1/2, 1/8), each divided among n tokens.
    logits = torch.tensor([0.0, 0.0, excluded], dtype=dtype).repeat_interleave(n).requires_grad_()
    others = torch.tensor([excluded, 0.0, 0.0], dtype=dtype).repeat_interleave(n)
    out = segkernel.token_divergences(logits, others, kind="js", beta=0.25).divergence
    of_p, of_q = 0.5 * math.log(4 / 3), 0.5 * math.log(4)  # KL(p || m), KL(q || m)
    assert out.item() == pytest.approx(0.75 * of_p + 0.25 * of_q, abs=accuracy(dtype)["atol"])
    out.backward()
    slope = 0.75 * 0.5 / n * (math.log(4 / 3) - of_p)
    expected = torch.tensor([slope, -slope, 0.0], dtype=torch.float64).repeat_interleave(n)
    assert_gradient(logits.grad, expected)
    if excluded == -INF:
        assert not logits.grad[2 * n :].any()


def test_token_divergences_of_disjoint_models_reach_their_bounds():
    logits, others = torch.tensor([[40.0, -INF, 0.0]]), torch.tensor([[-INF, 12.0, -INF]])
    out = {kind: segkernel.token_divergences(logits, others, kind=kind).divergence.item() for kind in KINDS}
    assert out == pytest.approx({"kl": INF, "reverse_kl": INF, "js": math.log(2), "tv": 1.0})


@every_kind
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("V", [2, 33, 2050])
def test_token_divergences_are_nan_for_rows_that_are_no_distribution(V, dtype, kind):
    """NaN, +inf or nothing but -inf in either row makes the divergence NaN, and only that row's entropy."""
    logits, others = pair(8, V, dtype=dtype)
    clean = segkernel.token_divergences(logits, others, kind=kind)
    for rows, first in ((logits, 1), (others, 4)):
        rows[first, 0] = NAN
        rows[first + 1, V - 1] = INF
        rows[first + 2] = -INF
    out = segkernel.token_divergences(logits, others, kind=kind)
    assert out.divergence.isnan().tolist() == [False, *[True] * 6, False]
    assert out.entropy.isnan().tolist() == [False, *[True] * 3, *[False] * 4]
    assert out.other_entropy.isnan().tolist() == [*[False] * 4, *[True] * 3, False]
    assert_identical(out.divergence[[0, 7]], clean.divergence[[0, 7]])


@every_kind
def test_token_divergences_of_masked_rows_are_0(kind):
    logits, others = pair(2, 3, 33, dtype=torch.float32)
    labels = torch.tensor([[1, 10**9, -100], [5, 6, 7]])  # -100 masks, too
    mask = torch.tensor([[1, 0, 1], [0, 1, 0]])
    kept = torch.tensor([[1, 0, 0], [0, 1, 0]], dtype=torch.bool)
    expected = segkernel.token_divergences(logits, others, None, labels.clamp(0, 32), kind=kind)
    poisoned = [x.masked_fill(~kept[..., None], NAN) for x in (logits, others)]
    for given in (mask, mask.bool(), mask * 0.5):
        out = segkernel.token_divergences(*poisoned, given, labels, kind=kind)
        for found, wanted in zip(out, expected, strict=True):
            assert_identical(found, wanted.masked_fill(~kept, 0))


@every_kind
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_token_divergences_of_strided_logits_have_the_same_bits(dtype, kind):
    logits, others = pair(3, 6, 4099, dtype=dtype)
    views = {
        "shifted": (logits[:, :-1], others[:, 1:]),
        "transposed": (logits.transpose(0, 1), others.transpose(0, 1)),
        "one expanded": (logits, others[:, :1].expand(3, 6, 4099)),
        "narrow": (logits[..., 1:4090], others[..., 3:4092]),
    }
    for view, other_view in views.values():
        out = segkernel.token_divergences(view, other_view, kind=kind)
        copied = segkernel.token_divergences(view.contiguous(), other_view.contiguous(), kind=kind)
        assert_identical(tuple(out[:3]), tuple(copied[:3]))


@every_kind
def test_token_divergences_have_the_same_bits_with_any_thread_count_and_batch(threads, kind):
    logits, others = pair(24, 4099, dtype=torch.bfloat16)
    mask, outs = torch.rand(24) < 0.6, []
    for number in (1, 2):
        torch.set_num_threads(number)
        outs.append(segkernel.token_divergences(logits, others, mask, kind=kind).divergence)
    assert_identical(outs[1], outs[0])
    for row in range(3):
        alone = segkernel.token_divergences(logits[row], others[row], mask[row], kind=kind).divergence
        assert_identical(alone, outs[0][row])


@every_kind
def test_token_divergences_have_the_same_bits_among_few_pairs_and_many(kind):
    """CUDA reads few pairs with larger blocks. A thread loads half as much of each row as of a single row."""
    V = 3 * chunk(torch.bfloat16) // 2 + 3  # both groups of a pair have two chunks; every other row is misaligned
    few, others = pair(3, V, dtype=torch.bfloat16)
    few[0, 5000] = others[0, 5000] = few[2, 9000] = -INF
    labels, options = random_labels(3, V=V), {"kind": kind, "beta": 0.3, "temperature": 0.8}
    expected = segkernel.token_divergences(few, others, None, labels, **options)
    kept = torch.zeros(3, 250, dtype=torch.bool)
    kept[:, 0] = kept[2, 1:5] = kept[1, -1] = True
    many = [rows[:, None].expand(3, 250, V) for rows in (few, others)]
    out = segkernel.token_divergences(*many, kept, labels[:, None].expand(3, 250), **options)
    for found, wanted in zip(out, expected, strict=True):
        assert_identical(found, wanted[:, None].expand(3, 250).masked_fill(~kept, 0))


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 3), (2, 1, 3)])
def test_token_divergences_accept_any_leading_shape(shape):
    logits, others = pair(*shape, 33, dtype=torch.float32)
    with unchanged(logits, others):
        out = segkernel.token_divergences(logits, others).divergence
    flat = segkernel.token_divergences(logits.view(-1, 33), others.view(-1, 33)).divergence
    assert_identical(out, flat.view(shape))


@pytest.mark.skipif(BACKEND != "cpu", reason="CUDA's operators give NaN")
def test_token_divergences_refuse_labels_out_of_range():
    logits, others = pair(2, 33, dtype=torch.float32)
    with pytest.raises(IndexError, match=r"labels: expected 0 <= label < 33.*got 33 at \[1\]"):
        segkernel.token_divergences(logits, others, None, torch.tensor([0, 33]))
    assert segkernel.token_divergences(logits, others, torch.tensor([1, 0]), torch.tensor([0, 33])).logprobs[1] == 0


X = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("others", "arguments", "error", "message"),
    [
        (X.bfloat16(), {}, TypeError, r"other_logits: expected float32 like logits, got bfloat16 \[2, 3\]"),
        ([[0.0]], {}, TypeError, r"other_logits: expected a floating-point tensor, got list"),
        (X[:1], {}, ValueError, r"other_logits: expected \[2, 3\] like logits, got float32 \[1, 3\]"),
        (torch.zeros(3, 2).T, {}, ValueError, r"other_logits: expected a contiguous last dimension.*strides \[1, 2\]"),
        (torch.zeros(2, 3, device="meta"), {}, ValueError, rf"other_logits: expected a tensor on {DEVICE}"),
        (X.clone().requires_grad_(), {}, ValueError, r"other_logits: expected a constant, got .* requires grad"),
        (X, {"kind": "jsd"}, ValueError, r"kind: expected one of 'kl', 'reverse_kl', 'js', 'tv', got 'jsd'"),
        (X, {"beta": 1.5}, ValueError, r"beta: expected 0 <= beta <= 1, got 1.5"),
        (X, {"beta": "x"}, TypeError, r"beta: expected a number"),
        (X, {"mask": torch.ones(2, 2)}, ValueError, r"mask: expected \[2\].*got float32 \[2, 2\]"),
        (X, {"labels": torch.zeros(3, dtype=torch.int64)}, ValueError, r"labels: expected \[2\]"),
        (X, {"temperature": 0.0}, ValueError, r"temperature: expected a finite number > 0, got 0.0"),
        (X, {"temperature": torch.ones(3)}, ValueError, r"temperature: expected a number or a tensor that broadcasts"),
        (X, {"inplace_backward": 1}, TypeError, r"inplace_backward: expected True or False, got int 1"),
    ],
)
def test_token_divergences_refuse_invalid_arguments(others, arguments, error, message):
    with pytest.raises(error, match=message):
        segkernel.token_divergences(X, others, **arguments)
