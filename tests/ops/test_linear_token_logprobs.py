import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import segkernel
from segkernel import _head_tiles, reference
from tests.helpers import BACKEND, DEVICE, EVERY_DTYPE, assert_identical, assert_near, leaves, opcheck, unchanged
from tests.ops.logprob_helpers import OUTPUTS, TRANSFORMS, accuracy, random_labels

NAN = float("nan")
implementation = sys.modules["segkernel.ops.linear_token_logprobs"]


def random_linear(*shape: int, H: int, V: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, weight and bias that give logits with a deviation of about 2."""
    hidden, weight = torch.randn(*shape, H), 2 * torch.randn(V, H) / math.sqrt(H)
    return hidden.to(dtype), weight.to(dtype), torch.randn(V).to(dtype)


def test_linear_token_logprobs_literals():
    # Logits 0, log 2, log 5 at the first token, and 0, log 2 + 1, log 5 - 1 with a bias.
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    weight = torch.tensor([[0.0, 3.0], [math.log(2), 3.0], [math.log(5), 3.0]])
    log_probs, entropy = segkernel.linear_token_logprobs(hidden, weight, torch.tensor([1, 0]), entropy=True)
    torch.testing.assert_close(log_probs, torch.tensor([2 / 8, 1 / 3]).log())
    H = -sum(p * math.log(p) for p in (1 / 8, 2 / 8, 5 / 8))
    torch.testing.assert_close(entropy, torch.tensor([H, math.log(3)]))
    assert log_probs.dtype == entropy.dtype == torch.float32
    bias = torch.tensor([math.log(3), 0.0, 0.0])
    out = segkernel.linear_token_logprobs(hidden, weight, torch.tensor([1, 0]), bias=bias)
    torch.testing.assert_close(out, torch.tensor([2 / 10, 3 / 5]).log())


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("H", "V"), [(1, 2), (5, 33), (64, 1000), (17, 4099)])
def test_linear_token_logprobs_match_float64_reference(H, V, dtype, transform):
    hidden, weight, bias = random_linear(3, 11, H=H, V=V, dtype=dtype)
    labels, mask = random_labels(3, 11, V=V), torch.rand(3, 11) < 0.7
    poisoned = hidden.masked_fill(~mask[..., None], NAN)
    for b in (None, bias):
        expected = reference.linear_token_logprobs(
            hidden.double(),
            weight.double(),
            labels,
            mask,
            bias=None if b is None else b.double(),
            outputs=OUTPUTS,
            **transform,
        )
        actual = segkernel.linear_token_logprobs(poisoned, weight, labels, mask, bias=b, outputs=OUTPUTS, **transform)
        for out, wanted in zip(actual[:-1], expected, strict=False):
            assert out.dtype == dtype
            assert_near(out.double(), wanted, **accuracy(dtype))
        assert_identical(actual.is_argmax, expected.is_argmax)


@pytest.mark.parametrize("compacts", [True, False])
def test_linear_is_argmax_is_the_first_of_equal_logits(compacts, monkeypatch):
    """Largest logits in several tiles: that with the lowest index counts, and with a bias not the same one."""
    monkeypatch.setattr(_head_tiles, "may_compact", lambda labels, mask: compacts)
    V = 3001  # three tiles
    hidden, weight = torch.ones(6, 2), torch.zeros(V, 2)
    weight[[700, 1500, 2900]] = 4.0
    labels, mask = torch.tensor([700, 1500, 2900, 0, -100, 700]), torch.tensor([1, 1, 1, 1, 1, 0])
    bias = torch.zeros(V).index_fill(0, torch.tensor(1500), 1.0)
    for b, expected in ((None, [1, 0, 0, 0, 0, 0]), (bias, [0, 1, 0, 0, 0, 0])):
        outs = segkernel.linear_token_logprobs(
            hidden, weight, labels, mask, bias=b, outputs=("is_argmax", "mean_logit")
        )
        assert outs.is_argmax.tolist() == [bool(e) for e in expected]
        mean = (24 + (0 if b is None else 1)) / V
        torch.testing.assert_close(outs.mean_logit, torch.tensor([mean] * 4 + [0.0] * 2))


def values_and_gradients(function, hidden, weight, bias, labels, mask, upstream) -> list[Tensor]:
    leaves = [leaf.detach().requires_grad_() for leaf in (hidden, weight, bias)]
    outs = function(leaves[0], leaves[1], labels, mask, bias=leaves[2], entropy=True, temperature=0.9)
    upstream = [g.to(outs[0].dtype) for g in upstream]
    return [*(out.detach() for out in outs), *torch.autograd.grad(outs, leaves, upstream)]


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize(("H", "V"), [(5, 33), (64, 1000), (17, 4099)])
def test_linear_token_logprobs_error_at_most_that_of_torch(H, V, dtype):
    """Errors of both against float64 on the same low-precision inputs; torch computes eagerly in their dtype."""
    hidden, weight, bias = random_linear(3, 11, H=H, V=V, dtype=dtype)
    labels, mask = random_labels(3, 11, V=V), torch.rand(3, 11) < 0.7
    upstream = [torch.randn(3, 11, dtype=torch.float64) for _ in range(2)]

    def eager(hidden, weight, labels, mask, *, bias, **options):
        return reference.token_logprobs(torch.nn.functional.linear(hidden, weight, bias), labels, mask, **options)

    doubles = [tensor.double() for tensor in (hidden, weight, bias)]
    truth = values_and_gradients(reference.linear_token_logprobs, *doubles, labels, mask, upstream)
    torch_s = values_and_gradients(eager, hidden, weight, bias, labels, mask, upstream)
    poisoned = hidden.masked_fill(~mask[..., None], NAN)
    upstream = [g.masked_fill(~mask, NAN) for g in upstream]
    ours = values_and_gradients(segkernel.linear_token_logprobs, poisoned, weight, bias, labels, mask, upstream)
    for actual, peer, exact in zip(ours, torch_s, truth, strict=True):
        assert actual.dtype == peer.dtype
        scale = exact.abs().max()
        error, peer_error = (actual - exact).abs().max() / scale, (peer - exact).abs().max() / scale
        # In float64 a change of base costs some ulps.
        rounding = 1e-14 if dtype == torch.float64 else 2 * torch.finfo(actual.dtype).eps
        assert error <= 1.5 * peer_error + rounding
    assert not ours[2][~mask].any()


@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_token_logprobs_gradcheck(with_bias):
    hidden, weight, bias = (x.requires_grad_() for x in random_linear(2, 4, H=3, V=7, dtype=torch.float64))
    labels, mask = random_labels(2, 4, V=7), torch.tensor([[1, 1, 0, 1], [0, 1, 1, 1]])

    def both(hidden, weight, bias):
        b = bias if with_bias else None
        return segkernel.linear_token_logprobs(
            hidden, weight, labels, mask, bias=b, entropy=True, temperature=0.8, logit_scale=1.2, softcap=6.0
        )

    inputs = (hidden, weight, bias) if with_bias else (hidden, weight)
    assert torch.autograd.gradcheck(lambda *given: both(*given, *([None] * (3 - len(given)))), inputs)


@pytest.mark.parametrize("needed", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1)])
def test_linear_token_logprobs_compute_only_the_gradients_needed(needed):
    inputs = random_linear(9, H=5, V=33, dtype=torch.float32)
    labels = random_labels(9, V=33)

    def gradients(needed) -> list:
        leaves = [x.clone().requires_grad_(bool(need)) for x, need in zip(inputs, needed, strict=True)]
        segkernel.linear_token_logprobs(leaves[0], leaves[1], labels, bias=leaves[2]).sum().backward()
        return [leaf.grad for leaf in leaves]

    for actual, wanted, need in zip(gradients(needed), gradients((1, 1, 1)), needed, strict=True):
        assert (actual is not None) == bool(need)
        if need:
            torch.testing.assert_close(actual, wanted)


def test_linear_token_logprobs_of_masked_tokens_are_0():
    hidden, weight, bias = random_linear(2, 5, H=6, V=33, dtype=torch.float32)
    labels, mask = random_labels(2, 5, V=33), torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0]])
    labels[0, 3] = -100
    kept = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    expected = segkernel.linear_token_logprobs(hidden[kept], weight, labels[kept], bias=bias)
    hidden = hidden.masked_fill(~kept[..., None], NAN).requires_grad_()
    weight.requires_grad_()
    out = segkernel.linear_token_logprobs(hidden, weight, labels.masked_fill(mask == 0, 99), mask, bias=bias)
    torch.testing.assert_close(out[kept], expected)
    assert not out[~kept].any()
    out.sum().backward()
    assert weight.grad.isfinite().all()
    assert not hidden.grad[~kept].any()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_linear_token_logprobs_without_compaction(dtype, masked, monkeypatch):
    """Without a device synchronization all tokens are multiplied; the results are the same."""
    N, V = 12, 3001
    hidden, weight, bias = random_linear(N, H=6, V=V, dtype=dtype)
    labels, mask = random_labels(N, V=V), torch.rand(N) < 0.6 if masked else None
    labels[2:4] = -100
    kept = labels != -100 if mask is None else mask & (labels != -100)
    hidden = hidden.masked_fill(~kept[:, None], NAN)
    labels = labels.masked_fill(~kept, -100) if mask is None else labels.masked_fill(~mask, 10**9)
    upstream = [torch.randn(N, dtype=torch.float64).masked_fill(~kept, NAN) for _ in range(2)]
    arguments = (segkernel.linear_token_logprobs, hidden, weight, bias, labels, mask, upstream)
    if BACKEND != "cuda":
        expected = values_and_gradients(*arguments)
    else:  # only the valid tokens
        upstream_kept = [g[kept] for g in upstream]
        parts = values_and_gradients(
            segkernel.linear_token_logprobs, hidden[kept], weight, bias, labels[kept], None, upstream_kept
        )
        spread = [torch.zeros(N, *part.shape[1:], dtype=part.dtype) for part in parts[:3]]
        expected = [every.index_put((kept,), part) for every, part in zip(spread, parts, strict=False)] + parts[3:]
    monkeypatch.setattr(_head_tiles, "may_compact", lambda labels, mask: False)
    actual = values_and_gradients(*arguments)
    eps = torch.finfo(dtype).eps
    for out, wanted in zip(actual, expected, strict=True):
        assert_near(out, wanted, rtol=4 * eps, atol=4 * eps * float(wanted.abs().max()))
    for out in actual[:3]:
        assert not out[~kept].any()


@pytest.mark.skipif(BACKEND == "cpu", reason="the CPU raises")
@pytest.mark.parametrize("label", [-1, 33, 10**12])
def test_linear_label_out_of_range_gives_nan_on_cuda(label):
    hidden, weight, _ = random_linear(4, H=5, V=33, dtype=torch.float32)
    labels = random_labels(4, V=33)
    good = [0, 1, 3]
    clean = segkernel.linear_token_logprobs(hidden[good], weight, labels[good], entropy=True)
    labels[2] = label
    hidden.requires_grad_()
    outs = segkernel.linear_token_logprobs(hidden, weight, labels, entropy=True)
    outs[0].sum().backward()
    for values, expected in ((outs[0], clean[0]), (outs[1], clean[1])):
        assert values[2].isnan()
        torch.testing.assert_close(values[good], expected)
    assert hidden.grad[2].isnan().all()
    assert hidden.grad[good].isfinite().all()


class LargestTensor(TorchDispatchMode):
    """Mode that records the largest tensor that an operation returns, except views of `known`, in float32 elements."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.known = [tensor.untyped_storage().data_ptr() for tensor in known]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        storages = [leaf.untyped_storage() for leaf in leaves(out)] if isinstance(out, (tuple, Tensor)) else []
        sizes = [storage.nbytes() // 4 for storage in storages if storage.data_ptr() not in self.known]
        self.elements = max([self.elements, *sizes])
        return out


@pytest.mark.parametrize("dtype", [1, 2])  # codes of float32, of the weight, and of bfloat16
def test_linear_token_logprobs_never_allocate_the_logits(dtype):
    N, H, V = 150, 4, 30_000
    hidden, weight, _ = random_linear(N, H=H, V=V, dtype=torch.float32)
    labels, options = random_labels(N, V=V), (None, 1.0, 1.0, None)
    with LargestTensor() as forward:
        _, entropies, lse, *_ = implementation._forward(hidden, weight, None, labels, None, *options, 1, dtype)
    with LargestTensor() as backward:
        ones = torch.ones(N)
        implementation._gradients(
            ones, ones, hidden, weight, None, labels, None, None, entropies, lse, *options[1:], dtype, True, True, False
        )
    for largest in (forward.elements, backward.elements):
        assert N * V // 20 < largest * dtype < N * V // 15  # a tile


def test_linear_token_logprobs_never_convert_the_whole_weight():
    N, H, V = 4, 64, 40_000
    hidden, weight, _ = random_linear(N, H=H, V=V, dtype=torch.float32)
    labels, bfloat16 = random_labels(N, V=V), 2
    options = (None, 1.0, 1.0, None)
    with LargestTensor(weight) as forward:
        _, _, lse, *_ = implementation._forward(hidden, weight, None, labels, None, *options, 0, bfloat16)
    with LargestTensor(weight) as backward:
        implementation._gradients(
            torch.ones(N),
            None,
            hidden,
            weight,
            None,
            labels,
            None,
            None,
            lse,
            lse,
            *options[1:],
            bfloat16,
            True,
            False,
            False,
        )
    assert max(forward.elements, backward.elements) < V * H // 15


MIXED = (
    ({"hidden": torch.float32, "weight": torch.float32, "bias": torch.float32}, torch.bfloat16),
    ({"hidden": torch.float32, "weight": torch.bfloat16, "bias": torch.float16}, torch.float32),
    ({"hidden": torch.bfloat16, "weight": torch.float32, "bias": torch.float32}, torch.float16),
    ({"hidden": torch.float32, "weight": torch.float64, "bias": torch.bfloat16}, torch.float64),
)


@pytest.mark.parametrize(("given", "compute_dtype"), MIXED, ids=str)
def test_compute_dtype_gives_the_results_of_converted_inputs(given, compute_dtype):
    inputs = random_linear(3, 11, H=17, V=4099, dtype=torch.float64)
    leaves = [value.to(dtype).requires_grad_() for value, dtype in zip(inputs, given.values(), strict=True)]
    converted = [leaf.detach().to(compute_dtype).requires_grad_() for leaf in leaves]
    labels, mask = random_labels(3, 11, V=4099), torch.rand(3, 11) < 0.7

    def results(hidden, weight, bias, **options) -> tuple[Any, ...]:
        outs = segkernel.linear_token_logprobs(hidden, weight, labels, mask, bias=bias, outputs=OUTPUTS, **options)
        return outs, torch.autograd.grad([out.sum() for out in outs[:2]], (hidden, weight, bias))

    outs, gradients = results(*leaves, compute_dtype=compute_dtype)
    expected, expected_gradients = results(*converted)
    assert_identical(tuple(outs), tuple(expected))
    assert outs.logprobs.dtype == (torch.float64 if compute_dtype == torch.float64 else torch.float32)
    for leaf, actual, wanted in zip(leaves, gradients, expected_gradients, strict=True):
        assert actual.dtype == leaf.dtype
        # Sums in float32 are rounded once: to the dtype of the inputs, or to that of the products.
        eps = max(torch.finfo(actual.dtype).eps, torch.finfo(compute_dtype).eps)
        assert_near(actual.double(), wanted.double(), rtol=2 * eps, atol=2 * eps * float(wanted.abs().max()))


def test_compute_dtype_is_that_of_autocast_by_default():
    hidden, weight, bias = (x.requires_grad_() for x in random_linear(9, H=6, V=33, dtype=torch.float32))
    labels = random_labels(9, V=33)
    call = segkernel.linear_token_logprobs
    expected = call(hidden, weight, labels, bias=bias, compute_dtype=torch.bfloat16)
    with torch.autocast(DEVICE, torch.bfloat16):
        outs = call(hidden, weight, labels, bias=bias)
        exact = call(hidden, weight, labels, bias=bias, compute_dtype=torch.float32)
        assert call(hidden.double(), weight, labels).dtype == torch.float64
    assert_identical(outs, expected)
    assert_identical(exact, call(hidden, weight, labels, bias=bias))
    assert (exact - outs).abs().max() > 1e-4
    gradients = [torch.autograd.grad(out.sum(), (hidden, weight, bias)) for out in (outs, expected)]
    assert_identical(gradients[0], gradients[1])
    assert {gradient.dtype for gradient in gradients[0]} == {torch.float32}
    # Without autocast the dtype is that of the hidden states, whatever the weight's.
    assert_identical(call(hidden, weight.bfloat16(), labels), call(hidden, weight.bfloat16().float(), labels))


@pytest.mark.skipif(BACKEND == "cuda", reason="a matter of the CPU's threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_token_logprobs_have_the_same_bits_with_any_thread_count(dtype, threads):
    hidden, weight, bias = random_linear(64, H=16, V=4099, dtype=dtype)
    labels, mask = random_labels(64, V=4099), torch.rand(64) < 0.6
    upstream = [torch.randn(64) for _ in range(2)]
    outs = []
    for number in (1, 2):
        torch.set_num_threads(number)
        outs.append(
            tuple(values_and_gradients(segkernel.linear_token_logprobs, hidden, weight, bias, labels, mask, upstream))
        )
    assert_identical(outs[1], outs[0])


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0), (2, 1, 3)])
def test_linear_token_logprobs_accept_any_leading_shape_and_no_valid_token(shape):
    hidden, weight, _ = random_linear(*shape, H=6, V=33, dtype=torch.float32)
    labels = random_labels(*shape, V=33)
    out = segkernel.linear_token_logprobs(hidden, weight, labels)
    assert_near(out, reference.linear_token_logprobs(hidden, weight, labels), rtol=0, atol=1e-5)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    nothing = segkernel.linear_token_logprobs(*leaves, labels, torch.zeros(shape))
    assert not nothing.any()
    nothing.sum().backward()
    assert not any(leaf.grad.any() for leaf in leaves)


def test_linear_token_logprobs_of_strided_inputs():
    hidden, weight, bias = random_linear(3, 8, H=6, V=33, dtype=torch.float32)
    labels = random_labels(3, 8, V=33)
    expected = segkernel.linear_token_logprobs(hidden[:, :-1].clone(), weight, labels[:, 1:].clone(), bias=bias)
    actual = segkernel.linear_token_logprobs(
        hidden[:, :-1], weight.T.contiguous().T, labels[:, 1:], bias=torch.stack([bias, bias], 1)[:, 0]
    )
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_linear_token_logprobs_leave_inputs_unchanged():
    hidden, weight, bias = (x.requires_grad_() for x in random_linear(9, H=5, V=33, dtype=torch.float32))
    labels = random_labels(9, V=33)
    with unchanged(hidden, weight, bias, labels):
        segkernel.linear_token_logprobs(hidden, weight, labels, bias=bias, softcap=5.0).sum().backward()


def test_linear_token_logprobs_of_one_temperature_per_token(monkeypatch):
    """Same results as for one temperature at a time, with and without compaction of the valid tokens."""
    inputs = random_linear(2, 5, H=6, V=3001, dtype=torch.float32)
    labels, mask = random_labels(2, 5, V=3001), torch.tensor([[1, 0, 1, 1, 1], [0, 1, 1, 1, 0]])
    temperature = torch.tensor([[0.5], [1.25]])

    def results(temperature, rows=slice(None)) -> list[Tensor]:
        leaves = [leaf.detach().requires_grad_() for leaf in (inputs[0][rows], *inputs[1:])]
        options = {"bias": leaves[2], "entropy": True, "temperature": temperature, "softcap": 20.0}
        outs = segkernel.linear_token_logprobs(*leaves[:2], labels[rows], mask[rows], **options)
        return [*(out.detach() for out in outs), *torch.autograd.grad([out.sum() for out in outs], leaves)]

    apart = [results(0.5, slice(1)), results(1.25, slice(1, 2))]
    for compacts in (True, False):
        monkeypatch.setattr(_head_tiles, "may_compact", lambda labels, mask, compacts=compacts: compacts)
        together = results(temperature)
        for index, value in enumerate(together):
            parts = [part[index] for part in apart]
            assert_near(value, torch.cat(parts) if index < 3 else sum(parts), rtol=1e-4, atol=1e-5)
        assert_identical(together, results(temperature.expand(2, 5).masked_fill(mask == 0, NAN)))
    with pytest.raises(ValueError, match=r"temperature: expected .*broadcasts to \[2, 5\], got float32 \[2\]"):
        results(torch.ones(2))


def test_linear_token_logprobs_refuse_second_derivatives():
    hidden, weight, _ = (x.requires_grad_() for x in random_linear(4, H=5, V=7, dtype=torch.float64))
    labels = random_labels(4, V=7)

    def second_derivative():
        out = segkernel.linear_token_logprobs(hidden, weight, labels).sum()
        (first,) = torch.autograd.grad(out, hidden, create_graph=True)
        torch.autograd.grad(first.square().sum(), hidden)

    with pytest.raises(RuntimeError, match=r"linear_token_logprobs.*(second|twice)"):
        second_derivative()


def test_linear_token_logprobs_opcheck():
    hidden, weight, bias = random_linear(2, 5, H=6, V=33, dtype=torch.float32)
    labels, mask = random_labels(2, 5, V=33), torch.tensor([[1, 1, 0, 1, 1], [1, 0, 1, 1, 0]])
    opcheck(lambda: segkernel.linear_token_logprobs(hidden, weight, labels, mask, bias=bias))
    hidden, weight, bias = (x.requires_grad_() for x in (hidden, weight, bias))
    opcheck(lambda: segkernel.linear_token_logprobs(hidden, weight, labels, mask, bias=bias, entropy=True))
    opcheck(lambda: segkernel.linear_token_logprobs(hidden, weight, labels, outputs=OUTPUTS))
    opcheck(lambda: segkernel.linear_token_logprobs(hidden, weight, labels, bias=bias, compute_dtype=torch.bfloat16))


@pytest.mark.compiles
def test_linear_token_logprobs_compile_as_one_graph():
    torch.compiler.reset()

    def loss(hidden, weight, labels, mask):
        entropy: Any
        logprobs, entropy, *_, is_argmax = segkernel.linear_token_logprobs(
            hidden, weight, labels, mask, outputs=OUTPUTS
        )
        return (logprobs + 0.1 * entropy + is_argmax).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for T in (6, 9):
        hidden, weight, _ = random_linear(2, T, H=6, V=33, dtype=torch.float32)
        labels, mask = random_labels(2, T, V=33), torch.rand(2, T) < 0.7
        for autocast in (False, True):
            gradients = []
            for function in (compiled, loss):
                leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
                with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
                    out = function(*leaves, labels, mask)
                gradients.append(torch.autograd.grad(out, leaves))
            torch.testing.assert_close(gradients[0], gradients[1])


def test_linear_token_logprobs_refuse_bad_arguments(value_checks: None):
    hidden, weight, bias = random_linear(2, 3, H=5, V=7, dtype=torch.float32)
    labels = torch.zeros(2, 3, dtype=torch.int64)
    call = segkernel.linear_token_logprobs
    with pytest.raises(TypeError, match=r"hidden: expected .*floating-point.*got int64 \[2, 3, 5\]"):
        call(hidden.long(), weight, labels)
    with pytest.raises(TypeError, match=r"weight: expected .*floating-point.*got int64 \[7, 5\]"):
        call(hidden, weight.long(), labels)
    for wrong in (torch.int32, "float32", torch.float8_e5m2):
        with pytest.raises(TypeError, match=r"compute_dtype: expected a floating-point dtype.*got "):
            call(hidden, weight, labels, compute_dtype=wrong)
    with pytest.raises(ValueError, match=r"weight: expected .*\[V, 5\].*got float32 \[7, 6\]"):
        call(hidden, torch.zeros(7, 6), labels)
    with pytest.raises(ValueError, match=r"weight: expected .*\[V, .*got float32 \[5\]"):
        call(hidden, weight[0], labels)
    with pytest.raises(ValueError, match=r"bias: expected .*\[7\].*got float32 \[8\]"):
        call(hidden, weight, labels, bias=torch.zeros(8))
    with pytest.raises(TypeError, match=r"bias: expected .*floating-point.*got bool \[7\]"):
        call(hidden, weight, labels, bias=bias > 0)
    with pytest.raises(ValueError, match=r"labels: expected .*\[2, 3\].*got int64 \[2, 4\]"):
        call(hidden, weight, torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"mask: expected \[2, 3\].*got bool \[3\]"):
        call(hidden, weight, labels, torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=rf"weight: expected .*{DEVICE}.*\[7, 5\] on meta"):
        call(hidden, weight.to("meta"), labels)
    with pytest.raises(ValueError, match=r"temperature: expected .*> 0.*got 0"):
        call(hidden, weight, labels, temperature=0.0)
    with pytest.raises(ValueError, match=r"temperature: expected a finite number > 0, got -1 at \[1, 0\]"):
        call(hidden, weight, labels, temperature=torch.tensor([[0.5], [-1.0]]))
    labels[1, 2] = 7
    with (
        unchanged(hidden, weight, labels),
        pytest.raises(IndexError, match=r"(?=.*\[1, 2\])labels.*expected .*7.*got 7"),
    ):
        call(hidden, weight, labels)
