import math

import pytest
import torch

import segkernel
from segkernel import reference
from tests.helpers import BACKEND, DEVICE, EVERY_DTYPE, assert_identical, assert_near, unchanged
from tests.ops.logprob_helpers import (
    BEYOND_ONE_PART,
    GROUPS,
    OUTPUTS,
    TRANSFORMS,
    VOCABULARIES,
    accuracy,
    chunk,
    random_labels,
    random_logits,
)

NAN, INF = float("nan"), float("inf")


def both(logits, labels, mask=None, **options):
    return segkernel.token_logprobs(logits, labels, mask, entropy=True, **options)


def every(logits, labels, mask=None, **options):
    """All outputs; the first two have the bits of `both`."""
    outs = segkernel.token_logprobs(logits, labels, mask, outputs=OUTPUTS, **options)
    assert_identical(outs[:2], both(logits, labels, mask, **options))
    return outs


def test_token_logprobs_of_rows_more_than_2_to_the_31_logits_apart():
    V = 41
    # Pages between the rows are never touched, so they take no memory.
    far_apart = torch.empty(2**31 + 64 + V, dtype=torch.bfloat16).as_strided((2, V), (2**31 + 64, 1))
    far_apart[:] = random_logits(2, V, dtype=torch.bfloat16)
    labels = torch.tensor([3, V - 1])
    together = far_apart.clone()
    assert_identical(segkernel.token_logprobs(far_apart, labels), segkernel.token_logprobs(together, labels))
    far_apart.requires_grad_()
    together.requires_grad_()
    segkernel.token_logprobs(far_apart, labels).sum().backward()
    segkernel.token_logprobs(together, labels).sum().backward()
    assert_identical(far_apart.grad, together.grad)


def test_token_logprobs_literals():
    # Probabilities 1/2, 1/4, 1/8, 1/8: log-probabilities in halvings, an entropy of 1.75 bits.
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    log_probs, entropy = both(logits.repeat(4, 1) + 3, torch.arange(4))
    torch.testing.assert_close(log_probs, -math.log(2) * torch.tensor([1.0, 2.0, 3.0, 3.0]))
    torch.testing.assert_close(entropy, torch.full((4,), 1.75 * math.log(2)))
    assert log_probs.dtype == entropy.dtype == torch.float32
    # Without the entropy, the log-probability has the same bits.
    assert_identical(segkernel.token_logprobs(logits.repeat(4, 1) + 3, torch.arange(4)), log_probs)


def test_token_logprobs_outputs_literals():
    # Probabilities 1/2, 1/4, 1/8, 1/8.
    logits, labels = torch.tensor([0.5, 0.25, 0.125, 0.125]).log().repeat(4, 1) + 3, torch.arange(4)
    outs = segkernel.token_logprobs(logits, labels, outputs=OUTPUTS)
    assert isinstance(outs, segkernel.TokenLogprobs)
    torch.testing.assert_close(outs.entropy, torch.full((4,), 1.75 * math.log(2)))
    torch.testing.assert_close(outs.sum_squares, torch.full((4,), 1 / 4 + 1 / 16 + 2 / 64))
    torch.testing.assert_close(outs.mean_logit, torch.full((4,), 3 - math.log(2) * 9 / 4))
    assert outs.is_argmax.tolist() == [True, False, False, False]
    # The mean is that of z: scaled, capped (15/17 = tanh(2 log 2)) and divided by the temperature.
    options = {"temperature": 0.5, "logit_scale": 2.0, "softcap": 3.0}
    out = segkernel.token_logprobs(
        torch.tensor([[0.0, 3 * math.log(2)]]), torch.tensor([1]), outputs=["mean_logit"], **options
    )
    torch.testing.assert_close(out.mean_logit, torch.tensor([3 * 15 / 17]))
    for names in ((), ("entropy",), ["is_argmax"], ("sum_squares", "entropy")):
        outs = segkernel.token_logprobs(logits, labels, outputs=names)
        assert [name for name in OUTPUTS if getattr(outs, name) is not None] == [n for n in OUTPUTS if n in names]
        assert_identical(outs.logprobs, segkernel.token_logprobs(logits, labels))


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("softcap", [None, 20.0])
def test_is_argmax_is_the_first_of_equal_logits(softcap, dtype):
    V, edge = GROUPS * chunk(dtype) + 37, chunk(dtype)
    firsts = [0, 1, 2, 17, 18, 1023, 1024, edge - 1, edge, edge + 1, 2 * edge, V - 19, V - 2, V - 1]
    logits = random_logits(len(firsts), V, dtype=dtype)
    logits.clamp_(max=7)
    for row, first in enumerate(firsts):
        logits[row, [first, (first + V) // 2, V - 1]] = 9.0
    for labels, expected in ((torch.tensor(firsts), True), (torch.tensor(firsts) - 1, False), (V - 1, None)):
        labels = torch.as_tensor(labels).expand(len(firsts)).clamp(min=0)
        found = every(logits, labels, softcap=softcap).is_argmax
        assert (
            found.tolist() == (labels == torch.tensor(firsts)).tolist()
            if expected is None
            else found[1:].all() == expected
        )
    # Under a softcap different logits can give equal z.
    saturated = torch.tensor([[-1.0, 5e3, 6e3, 2.0]])
    assert segkernel.token_logprobs(saturated, torch.tensor([1]), softcap=1.0, outputs=("is_argmax",)).is_argmax.item()
    assert segkernel.token_logprobs(saturated, torch.tensor([2]), outputs=("is_argmax",)).is_argmax.item()


def test_logit_transform_literals():
    logits, labels = torch.tensor([[0.0, math.log(2)]]), torch.tensor([1])
    # z = scale / temperature * log 2, so p = 2^k / (1 + 2^k).
    for options, k in (
        ({"temperature": 0.5}, 2),
        ({"logit_scale": 3.0}, 3),
        ({"temperature": 0.5, "logit_scale": 2.0}, 4),
    ):
        out = segkernel.token_logprobs(logits, labels, **options)
        torch.testing.assert_close(out, torch.tensor([math.log(2**k / (1 + 2**k))]))
    # cap(y) = 3 tanh(y / 3), of the scaled logits and before the temperature: z = 3 tanh(2 log 2) / 0.5, tanh = 15/17.
    out = segkernel.token_logprobs(logits * 3, labels, temperature=0.5, logit_scale=2.0, softcap=3.0)
    torch.testing.assert_close(out, torch.tensor([-math.log1p(math.exp(-6 * 15 / 17))]))


def test_token_temperature_literals():
    # z = log 2 / temperature, so p = 2^k / (1 + 2^k) with k = 1 / temperature.
    logits, labels = torch.tensor([0.0, math.log(2)]).expand(2, 2, 2), torch.ones(2, 2, dtype=torch.int64)
    for temperature, k in (
        (torch.tensor([[0.5], [0.25]]), [[2, 2], [4, 4]]),
        (torch.tensor([1.0, 0.5]), [[1, 2], [1, 2]]),
        (torch.tensor([[1.0, 0.5], [0.25, 0.125]], dtype=torch.float16), [[1, 2], [4, 8]]),
        (torch.tensor(0.5), [[2, 2], [2, 2]]),
    ):
        out = segkernel.token_logprobs(logits, labels, temperature=temperature)
        torch.testing.assert_close(out, torch.tensor([[math.log(2**k / (1 + 2**k)) for k in row] for row in k]))
    # cap(y) = 3 tanh(y / 3) comes before the temperature.
    out = segkernel.token_logprobs(
        torch.tensor([[0.0, 3 * math.log(2)]]),
        torch.tensor([1]),
        logit_scale=2.0,
        softcap=3.0,
        temperature=torch.tensor([0.5]),
    )
    torch.testing.assert_close(out, torch.tensor([-math.log1p(math.exp(-6 * 15 / 17))]))


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("rows", [2, 700])  # of both CUDA kernels
def test_token_temperature_gives_the_bits_of_a_temperature_for_all_rows(rows, dtype):
    V, temperatures = 2 * chunk(dtype) + 3, torch.tensor([0.3, 1.0, 1.7], dtype=torch.float64)
    few, labels = random_logits(2, 3, V, dtype=dtype), random_labels(2, 3, V=V)
    for options in ({}, {"logit_scale": 0.5, "softcap": 20.0}):
        alone = [both(few, labels, temperature=float(t), **options) for t in temperatures]
        kept = torch.zeros(rows, 3, dtype=torch.bool)
        kept[:2] = True
        every = temperatures.expand(rows, 3).masked_fill(~kept, -1.0)  # of masked rows it is not used
        many, many_labels = (x[:1].expand(rows, *x.shape[1:]).clone() for x in (few, labels))
        many[1], many_labels[1] = few[1], labels[1]
        for index, out in enumerate(both(many, many_labels, kept, temperature=every, **options)):
            assert_identical(out[:2], torch.stack([alone[t][index][:, t] for t in range(3)], 1))
            assert not out[2:].any()


def test_token_temperature_out_of_range_raises(value_checks: None):
    logits, labels = torch.zeros(2, 3, 7), torch.zeros(2, 3, dtype=torch.int64)
    for wrong in (0.0, -1.0, NAN, INF):
        temperature = torch.ones(2, 3)
        temperature[1, 2] = wrong
        with pytest.raises(ValueError, match=rf"temperature: expected a finite number > 0, got {wrong:g} at \[1, 2\]"):
            segkernel.token_logprobs(logits, labels, temperature=temperature)
        mask = torch.ones(2, 3, dtype=torch.bool)
        mask[1, 2] = False
        segkernel.token_logprobs(logits, labels, mask, temperature=temperature)


@pytest.mark.skipif(BACKEND == "cpu", reason="the CPU raises")
def test_token_temperature_out_of_range_gives_nan_on_cuda():
    logits, labels = random_logits(6, 33, dtype=torch.float32), random_labels(6, V=33)
    temperature = torch.tensor([1.0, 0.0, -1.0, NAN, INF, 1.0])
    log_probs, entropy = both(logits, labels, temperature=temperature)
    for out, clean in zip((log_probs, entropy), both(logits, labels), strict=True):
        assert out[1:5].isnan().all()
        assert_identical(out[[0, 5]], clean[[0, 5]])


@pytest.mark.parametrize("V", VOCABULARIES)
def test_token_logprobs_of_uniform_and_certain_rows(V):
    labels = torch.tensor([0, V - 1, V // 2])
    log_probs, entropy = both(torch.full((3, V), -7.0), labels)
    torch.testing.assert_close(log_probs, torch.full((3,), -math.log(V)))
    torch.testing.assert_close(entropy, torch.full((3,), math.log(V)))
    logits = torch.full((3, V), -INF).scatter(1, labels[:, None], 2.5)
    assert_near(both(logits, labels), (torch.zeros(3), torch.zeros(3)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("V", [*VOCABULARIES, *BEYOND_ONE_PART])
def test_token_logprobs_match_float64_reference(V, dtype, transform):
    T = 11 if V in VOCABULARIES else 3
    logits, labels = random_logits(3, T, V, dtype=dtype), random_labels(3, T, V=V)
    labels[:2] = logits[:2].argmax(-1)
    mask = torch.rand(3, T) < 0.7
    expected = reference.token_logprobs(logits.double(), labels, mask, outputs=OUTPUTS, **transform)
    logits = logits.masked_fill(~mask[..., None], NAN)
    *outs, is_argmax = every(logits, labels, mask, **transform)
    for out, wanted in zip(outs, expected, strict=False):
        assert out.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert_near(out.double(), wanted, **accuracy(dtype))
    assert is_argmax.dtype == torch.bool
    assert_identical(is_argmax, expected.is_argmax)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_token_logprobs_error_below_2e_5_at_vocabulary_151936(dtype, spread):
    V = 151936
    logits = (random_logits(4, V, dtype=torch.float32, spread=spread) - 3).to(dtype)
    labels = torch.tensor([0, V - 1, int(logits[2].argmax()), int(logits[3].argmin())])
    expected = reference.token_logprobs(logits.double(), labels, entropy=True)
    for out, wanted in zip(both(logits, labels), expected, strict=True):
        assert (out - wanted).abs().max() <= 2e-5


@pytest.mark.parametrize("offset", [-1e4, -300.0, 1e4])
def test_token_logprobs_of_logits_far_from_zero(offset):
    logits, labels = random_logits(5, 1000, dtype=torch.float32) + offset, random_labels(5, V=1000)
    expected = reference.token_logprobs(logits.double(), labels, entropy=True)
    for out, wanted in zip(both(logits, labels), expected, strict=True):
        assert_near(out.double(), wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize("V", [33, 1000, 4099])
def test_running_maximum_found_at_any_position(V):
    """Ascending logits raise the running maximum at every step, descending ones never."""
    ramp = torch.linspace(-40, 25, V)
    single = torch.zeros(V)
    rows = [ramp, ramp.flip(0), *(single.index_fill(0, torch.tensor([v]), 60.0) for v in (0, V // 2, V - 2, V - 1))]
    logits, labels = torch.stack(rows), random_labels(len(rows), V=V)
    expected = reference.token_logprobs(logits.double(), labels, entropy=True)
    for out, wanted in zip(both(logits, labels), expected, strict=True):
        assert_near(out.double(), wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("jump", [80.0, 95.0, 150.0, 190.0, 300.0, 1000.0])
def test_running_maximum_may_jump_beyond_the_exponent_range_of_floats(jump, dtype):
    """Relative to the maximum of the first half, 2^d of the second half overflows or saturates."""
    logits = torch.zeros(1, 8192, dtype=dtype)
    logits[:, :4096] = -jump
    log_probs, entropy = both(logits.expand(2, -1), torch.tensor([5000, 5]))
    expected = torch.tensor([0.0, -jump], dtype=torch.float64) - math.log(4096)
    assert_near(log_probs.double(), expected, rtol=1e-6, atol=0)
    assert_near(entropy.double(), torch.full((2,), math.log(4096), dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("V", [7, 33, 257, 4099])
def test_token_logprobs_of_impossible_tokens(V, dtype):
    """Rows that are -inf except for their last, their first, every other, or their last three tokens."""
    logits = torch.full((4, V), -INF, dtype=dtype)
    logits[0, -1] = logits[1, 0] = -2.0
    logits[2, ::2] = random_logits((V + 1) // 2, dtype=dtype)
    logits[3, -3:] = 1.0
    labels = torch.tensor([V - 1, 0, 0, V - 2])
    log_probs, entropy = both(logits, labels)
    assert_near((log_probs[:2], entropy[:2]), (torch.zeros_like(log_probs[:2]),) * 2, rtol=0, atol=1e-6)
    wanted, wanted_entropy = reference.token_logprobs(logits[2:3, ::2].double(), labels[2:3], entropy=True)
    assert_near(log_probs[2:3].double(), wanted, **accuracy(dtype))
    assert_near(entropy[2:3].double(), wanted_entropy, **accuracy(dtype))
    assert abs(entropy[3] - math.log(3)) < 1e-6

    impossible, entropy, sum_squares, mean_logit, is_argmax = every(logits, torch.tensor([0, V - 1, 1, 0]))
    assert impossible.tolist() == mean_logit.tolist() == [-INF] * 4
    assert entropy.isfinite().all()
    assert_near(sum_squares[[0, 1, 3]].double(), torch.tensor([1, 1, 1 / 3]).double(), rtol=1e-6, atol=0)
    assert not is_argmax.any()
    assert every(logits, torch.tensor([V - 1, 0, 0, V - 3])).is_argmax[[0, 1, 3]].all()


def test_token_logprobs_of_vanishing_probabilities():
    log_probs, entropy = both(torch.tensor([[0.0, -200.0, -3e38], [0.0, -150.0, -110.0]]), torch.tensor([1, 2]))
    assert log_probs.tolist() == [-200.0, -110.0]
    assert entropy.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("V", [2, 33, 1000])
def test_token_logprobs_are_nan_for_rows_that_are_no_distribution(V, dtype):
    """Rows with NaN, with +inf, and of -inf only are NaN; their neighbors are unaffected."""
    logits, labels = random_logits(9, V, dtype=dtype), random_labels(9, V=V)
    clean = every(logits, labels)
    logits[1, 0] = NAN
    logits[2, V - 1] = INF
    logits[4] = -INF
    logits[5, V // 2] = NAN
    logits[7, :2] = INF
    bad = torch.tensor([1, 2, 4, 5, 7])
    good = torch.tensor([0, 3, 6, 8])
    for out, before in zip(every(logits, labels), clean, strict=True):
        assert not out[bad].any() if out.dtype == torch.bool else out[bad].isnan().all()
        assert_identical(out[good], before[good])
    for label in (0, V - 1):  # wherever the label is
        assert segkernel.token_logprobs(logits, torch.full((9,), label))[bad].isnan().all()


def test_softcap_of_infinite_logits_is_finite():
    """cap(-inf) is -softcap, so a row of -inf only is uniform."""
    logits = torch.tensor([[-INF, -INF, -INF, -INF], [-INF, 0.0, -INF, 0.0], [NAN, 0.0, 0.0, 0.0]])
    log_probs, entropy = both(logits, torch.tensor([0, 0, 1]), softcap=2.0)
    torch.testing.assert_close(log_probs[0], torch.tensor(-math.log(4)))
    torch.testing.assert_close(entropy[0], torch.tensor(math.log(4)))
    torch.testing.assert_close(log_probs[1], torch.tensor(-2 - math.log(2 + 2 * math.exp(-2))))
    assert log_probs[2].isnan()
    assert entropy[2].isnan()


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_token_logprobs_of_masked_rows_are_0(dtype):
    logits, labels = random_logits(2, 5, 33, dtype=dtype), random_labels(2, 5, V=33)
    mask = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0]])
    labels[0, 3] = -100  # masks too
    kept = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    expected = every(logits, labels.clamp(min=0))
    poisoned = logits.masked_fill(~kept[..., None], NAN)
    labels = labels.masked_fill(mask == 0, 10**9)  # their labels may be anything
    for given in (mask, mask.bool(), mask.float() * 0.5):
        for out, wanted in zip(every(poisoned, labels, given), expected, strict=True):
            assert_identical(out, wanted.masked_fill(~kept, 0))
    for out in every(torch.full((2, 5, 33), NAN, dtype=dtype), torch.full((2, 5), -100)):
        assert not out.any()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.uint8])
def test_token_logprobs_accept_labels_of_any_integer_dtype(dtype):
    logits, labels = random_logits(40, 200, dtype=torch.float32), random_labels(40, V=200)
    assert_identical(both(logits, labels.to(dtype)), both(logits, labels))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (5,), (2, 0), (2, 3), (2, 1, 3)])
def test_token_logprobs_accept_any_leading_shape(shape):
    logits, labels = random_logits(*shape, 33, dtype=torch.float32), random_labels(*shape, V=33)
    for out, flat in zip(both(logits, labels), both(logits.view(-1, 33), labels.view(-1)), strict=True):
        assert_identical(out, flat.view(shape))


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("V", [31, 64, 257, *BEYOND_ONE_PART])
def test_token_logprobs_of_strided_logits_have_the_same_bits(V, dtype):
    """Rows of views start at any alignment and give the same bits as those of a contiguous copy."""
    logits, labels = random_logits(3, 4, V, dtype=dtype), random_labels(3, 4, V=V)
    views = {
        "shifted": (logits[:, :-1], labels[:, 1:]),
        "every other": (logits[::2, 1::2], labels[::2, 1::2]),
        "transposed": (logits.transpose(0, 1), labels.T),
        "repeated": (logits[:, :1].expand(3, 4, V), labels),
        "narrow": (logits[..., 1 : V - 3], labels % (V - 4)),
    }
    for view, view_labels in views.values():
        assert_identical(every(view, view_labels), every(view.contiguous(), view_labels.contiguous()))


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_token_logprobs_have_the_same_bits_with_any_thread_count(dtype, threads):
    logits, labels = random_logits(64, 4099, dtype=dtype), random_labels(64, V=4099)
    mask = torch.rand(64) < 0.6
    outs = []
    for number in (1, 2):
        torch.set_num_threads(number)
        outs.append(every(logits, labels, mask))
    assert_identical(outs[1], outs[0])


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("V", [33, 1000, *BEYOND_ONE_PART])
def test_token_logprobs_have_the_same_bits_in_any_batch(V, dtype):
    logits, labels = random_logits(7, 3, V, dtype=dtype), random_labels(7, 3, V=V)
    mask = torch.rand(7, 3) < 0.6
    together = every(logits, labels, mask, temperature=0.8)
    for b in range(7):
        for t in range(3):
            alone = every(logits[b, t].clone(), labels[b, t], mask[b, t], temperature=0.8)
            assert_identical(alone, [out[b, t] for out in together])


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("past", [-1, 0, 1])
def test_token_logprobs_of_rows_that_end_at_a_chunk_edge(past, dtype):
    for chunks in (1, GROUPS, GROUPS + 1):
        V = chunks * chunk(dtype) + past
        logits = random_logits(5, V, dtype=dtype)
        logits[0, : V - 1] = -INF  # one finite logit, the last
        logits[1, 1:] = -INF
        logits[2, : V // 2] = -INF
        logits[3, V - 1] = NAN
        labels = torch.tensor([V - 1, 0, V - 1, 0, V - 2])
        expected = reference.token_logprobs(logits.double(), labels, entropy=True)
        for out, wanted in zip(both(logits, labels), expected, strict=True):
            assert_near(out.double(), wanted, **accuracy(dtype))


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_token_logprobs_have_the_same_bits_among_few_rows_and_many(dtype):
    """A CUDA kernel of its own takes up to 1024 rows; its blocks share the scored ones."""
    V = (GROUPS + 1) * chunk(dtype) + 3  # every other row is misaligned
    few, labels = random_logits(6, V, dtype=dtype), random_labels(6, V=V)
    options = {"temperature": 0.8, "softcap": 20.0}
    expected = every(few, labels, **options)
    for repeats in (170, 171):  # 1020 and 1026 rows
        kept = torch.zeros(6, repeats, dtype=torch.bool)
        kept[:, 0] = kept[2, 1:20] = kept[5, -1] = True
        many = few[:, None].expand(6, repeats, V)
        for out, wanted in zip(every(many, labels[:, None].expand(6, repeats), kept, **options), expected, strict=True):
            assert_identical(out, wanted[:, None].expand(6, repeats).masked_fill(~kept, 0))


def test_token_logprobs_leave_inputs_unchanged():
    logits, labels, mask = random_logits(4, 33, dtype=torch.float32), random_labels(4, V=33), torch.rand(4)
    with unchanged(logits, labels, mask):
        both(logits, labels, mask, temperature=0.5, logit_scale=2.0, softcap=5.0)


LABELS_OUT_OF_RANGE = (-1, 7, 10**12, -101)


@pytest.mark.parametrize("label", LABELS_OUT_OF_RANGE)
def test_label_out_of_range_raises(label, value_checks: None):
    logits, labels = torch.zeros(2, 3, 7), torch.zeros(2, 3, dtype=torch.int64)
    labels[1, 2] = label
    with (
        unchanged(logits, labels),
        pytest.raises(IndexError, match=rf"(?=.*\[1, 2\])labels.*expected .*7.*got {label}"),
    ):
        segkernel.token_logprobs(logits, labels)
    with pytest.raises(IndexError, match=rf"(?=.*\[5\])labels.*expected .*7.*got {label}"):
        both(logits.view(6, 7), labels.view(6))
    segkernel.token_logprobs(logits, labels, labels == 0)  # masked, it may be anything


@pytest.mark.skipif(BACKEND == "cpu", reason="the CPU raises")
@pytest.mark.parametrize("label", LABELS_OUT_OF_RANGE)
def test_label_out_of_range_gives_nan_on_cuda(label):
    logits, labels = random_logits(2, 3, 7, dtype=torch.float32), torch.zeros(2, 3, dtype=torch.int64)
    clean = both(logits, labels)
    labels[1, 2] = label
    for out, before in zip(both(logits, labels), clean, strict=True):
        assert out[1, 2].isnan()
        out[1, 2] = before[1, 2]
        assert_identical(out, before)


def test_token_logprobs_refuse_bad_arguments():
    logits, labels = torch.zeros(2, 3, 7), torch.zeros(2, 3, dtype=torch.int64)
    call = segkernel.token_logprobs
    with pytest.raises(TypeError, match=r"logits: expected .*floating-point.*got int64 \[2, 3, 7\]"):
        call(logits.long(), labels)
    with pytest.raises(TypeError, match=r"logits: expected .*tensor.*got list"):
        call([[0.0]], labels)
    with pytest.raises(TypeError, match=r"labels: expected .*integer.*got float32 \[2, 3\]"):
        call(logits, labels.float())
    with pytest.raises(TypeError, match=r"labels: expected .*integer.*got bool \[2, 3\]"):
        call(logits, labels.bool())
    with pytest.raises(ValueError, match=r"labels: expected .*\[2, 3\].*got int64 \[2, 4\]"):
        call(logits, torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels: expected .*\[2, 3\].*got int64 \[6\]"):
        call(logits, labels.view(6))
    with pytest.raises(ValueError, match=r"mask: expected \[2, 3\].*got bool \[2, 3, 7\]"):
        call(logits, labels, torch.ones(2, 3, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"logits: expected .*V.*got float32 \[\]"):
        call(torch.zeros(()), labels)
    with pytest.raises(ValueError, match=rf"labels: expected .*{DEVICE}.*got int64 \[2, 3\] on meta"):
        call(logits, labels.to("meta"))
    with pytest.raises(ValueError, match=rf"mask: expected .*{DEVICE}.*got int64 \[2, 3\] on meta"):
        call(logits, labels, labels.to("meta"))
    with pytest.raises(ValueError, match=r"outputs: expected one of 'entropy', .*'is_argmax', got 'entropies'"):
        call(logits, labels, outputs=("entropies",))
    with pytest.raises(TypeError, match=r"outputs: expected a tuple of names, got str 'entropy'"):
        call(logits, labels, outputs="entropy")
    with pytest.raises(ValueError, match=r"entropy: expected False together with outputs, got True"):
        call(logits, labels, entropy=True, outputs=("is_argmax",))
    for temperature in (0.0, -1.0, NAN):
        with pytest.raises(ValueError, match=rf"temperature: expected .*> 0.*got {temperature}"):
            call(logits, labels, temperature=temperature)
    for softcap in (0.0, -30.0, NAN):
        with pytest.raises(ValueError, match=rf"softcap: expected .*> 0.*got {softcap}"):
            call(logits, labels, softcap=softcap)
    for shape in ((2,), (3, 3), (1, 2, 3), (2, 3, 1)):
        with pytest.raises(ValueError, match=r"temperature: expected .*broadcasts to \[2, 3\], got float32 \["):
            call(logits, labels, temperature=torch.ones(shape))
    with pytest.raises(TypeError, match=r"temperature: expected a floating-point tensor, got int64 \[2, 3\]"):
        call(logits, labels, temperature=labels + 1)
    with pytest.raises(ValueError, match=rf"temperature: expected .*{DEVICE}.*got float32 \[3\] on meta"):
        call(logits, labels, temperature=torch.ones(3, device="meta"))
    with pytest.raises(ValueError, match=r"temperature: expected a constant, got a tensor that requires grad; call"):
        call(logits, labels, temperature=torch.ones(3, requires_grad=True))
    with pytest.raises(TypeError, match=r"temperature: expected a number.*got str"):
        call(logits, labels, temperature="cold")
    for logit_scale in (NAN, INF):
        with pytest.raises(ValueError, match=rf"logit_scale: expected .*finite.*got {logit_scale}"):
            call(logits, labels, logit_scale=logit_scale)
