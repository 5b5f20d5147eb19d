"""Several labels per position, `[..., K]`, in `token_logprobs` and `linear_token_logprobs`."""

import math

import pytest
import torch
from torch import Tensor

import segkernel
from segkernel import _head_tiles, reference
from tests.helpers import BACKEND, EVERY_DTYPE, assert_identical, assert_near, opcheck
from tests.ops.logprob_helpers import OUTPUTS, accuracy, assert_gradient, chunk, random_labels, random_logits

NAN = float("nan")
OPTIONS = {"temperature": 0.8, "softcap": 20.0}


def several_labels(*shape: int, K: int, V: int) -> Tensor:
    """Random labels, some of them -100, some equal; in the first position all are -100, in the last none."""
    labels = random_labels(*shape, K, V=V)
    labels[torch.rand(labels.shape) < 0.3] = -100
    labels[..., K // 2] = labels[..., 0]
    labels.view(-1, K)[0] = -100
    labels.view(-1, K)[-1] = random_labels(K, V=V)
    return labels


def test_several_labels_literals():
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log().expand(3, 4)
    labels = torch.tensor([[0, 3, -100, 0], [-100, -100, -100, 1], [-100, -100, -100, -100]])
    outs = segkernel.token_logprobs(logits, labels, outputs=OUTPUTS)
    expected = -math.log(2) * torch.tensor([[1.0, 3.0, 0.0, 1.0], [0.0, 0.0, 0.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(outs.logprobs, expected)
    torch.testing.assert_close(outs.entropy, math.log(2) * torch.tensor([1.75, 1.75, 0.0]))
    torch.testing.assert_close(outs.mean_logit, -math.log(2) * torch.tensor([9 / 4, 9 / 4, 0.0]))
    assert outs.is_argmax.tolist() == [[True, False, False, True], [False] * 4, [False] * 4]
    # d logprob_k = onehot(k) - p: the gradients of equal labels add up.
    leaf = logits[:1].clone().requires_grad_()
    segkernel.token_logprobs(leaf, labels[:1]).sum().backward()
    torch.testing.assert_close(leaf.grad, torch.tensor([[2 - 1.5, -0.75, -0.375, 1 - 0.375]]))


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize(("rows", "K"), [(3, 1), (3, 5), (3, 256), (400, 40)])  # 400 * 3: the CUDA kernel of many rows
def test_several_labels_give_the_bits_of_one_at_a_time(rows, K, dtype):
    V = chunk(dtype) + 37
    few = random_logits(3, 3, V, dtype=dtype)
    logits, labels = few[torch.arange(rows) % 3], several_labels(rows, 3, K=K, V=V)
    mask = torch.rand(rows, 3) < 0.8
    kept = mask & (labels != -100).any(-1)
    poisoned = logits.masked_fill(~kept[..., None], NAN)
    outs = segkernel.token_logprobs(
        poisoned, labels.masked_fill(~mask[..., None], 10**9), mask, outputs=OUTPUTS, **OPTIONS
    )
    assert outs.logprobs.shape == outs.is_argmax.shape == labels.shape
    first_and_last = torch.arange(rows)[[0, 1, -1]]
    logits, labels, mask = (x[first_and_last] for x in (logits, labels, mask))
    outs = [out[first_and_last] for out in outs]
    for k in range(0, K, max(1, K // 6)):
        alone = segkernel.token_logprobs(logits, labels[..., k], mask, outputs=OUTPUTS, **OPTIONS)
        for index in (0, 4):
            assert_identical(outs[index][..., k], alone[index])
    alone = segkernel.token_logprobs(logits, labels.amax(-1), mask, outputs=OUTPUTS, **OPTIONS)
    assert_identical(tuple(outs[1:4]), tuple(alone)[1:4])


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("K", [1, 7, 40])
def test_several_labels_match_float64_reference_with_gradients(K, dtype):
    V = chunk(dtype) + 37
    logits, labels = random_logits(2, 4, V, dtype=dtype), several_labels(2, 4, K=K, V=V)
    mask = torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1]])
    temperature = torch.tensor([[0.5], [1.5]])
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    kept = (mask != 0)[..., None] & (labels != -100)
    upstream = [torch.randn(2, 4, K, dtype=wide), torch.randn(2, 4, dtype=wide)]
    exact = logits.double().requires_grad_()
    expected = reference.token_logprobs(
        exact, labels, mask, entropy=True, temperature=temperature.double(), softcap=9.0
    )
    (expected_gradient,) = torch.autograd.grad(expected, exact, [g.double() for g in upstream])
    upstream = [upstream[0].masked_fill(~kept, NAN), upstream[1].masked_fill(~kept.any(-1), NAN)]
    for inplace_backward in (False, True):
        leaf = logits.clone().requires_grad_()
        given = leaf * 1
        outs = segkernel.token_logprobs(
            given, labels, mask, entropy=True, temperature=temperature, softcap=9.0, inplace_backward=inplace_backward
        )
        for out, wanted in zip(outs, expected, strict=True):
            assert_near(out.double(), wanted, **accuracy(dtype))
        assert_gradient(torch.autograd.grad(outs, given, upstream)[0], expected_gradient)


def test_several_labels_gradcheck():
    logits = random_logits(2, 3, 7, dtype=torch.float64, spread=1.0).requires_grad_()
    labels = torch.tensor([[[0, 3, 3], [-100, 6, 1], [2, 2, 2]], [[-100, -100, -100], [5, -100, 5], [1, 0, 4]]])
    assert torch.autograd.gradcheck(
        lambda x: segkernel.token_logprobs(x, labels, entropy=True, softcap=3.0, temperature=0.7), logits
    )
    hidden = torch.randn(2, 3, 4, dtype=torch.float64).requires_grad_()
    weight = torch.randn(7, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda h, w: segkernel.linear_token_logprobs(h, w, labels, entropy=True, softcap=3.0), (hidden, weight)
    )


@pytest.mark.parametrize("compacts", [True, False])
def test_linear_several_labels_match_those_of_the_logits(compacts, monkeypatch):
    monkeypatch.setattr(_head_tiles, "may_compact", lambda *_: compacts)
    V = 3001  # several tiles
    hidden, weight = torch.randn(2, 4, 6, dtype=torch.float64), torch.randn(V, 6, dtype=torch.float64)
    labels, mask = several_labels(2, 4, K=5, V=V), torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1]])
    labels[0, 1, 2] = (hidden[0, 1] @ weight.T).argmax()
    kept = (mask != 0) & (labels != -100).any(-1)
    upstream = [torch.randn(2, 4, 5, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)]
    results = []
    for head in (True, False):
        leaves = [
            hidden.masked_fill(~kept[..., None], NAN if head else 0.0).requires_grad_(),
            weight.clone().requires_grad_(),
        ]
        if head:
            outs = segkernel.linear_token_logprobs(*leaves, labels, mask, outputs=OUTPUTS, **OPTIONS)
        else:
            outs = segkernel.token_logprobs(leaves[0] @ leaves[1].T, labels, mask, outputs=OUTPUTS, **OPTIONS)
        results.append((*outs, *torch.autograd.grad(outs[:2], leaves, upstream)))
    assert results[0][4][0, 1, 2]
    assert_near(results[0], results[1], rtol=1e-11, atol=1e-11)


@pytest.mark.compiles
def test_several_labels_opcheck_and_compile():
    logits, labels = random_logits(2, 5, 33, dtype=torch.float32).requires_grad_(), several_labels(2, 5, K=3, V=33)
    hidden, weight = torch.randn(2, 5, 6, requires_grad=True), torch.randn(33, 6, requires_grad=True)
    opcheck(lambda: segkernel.token_logprobs(logits, labels, outputs=OUTPUTS))
    opcheck(lambda: segkernel.linear_token_logprobs(hidden, weight, labels, outputs=OUTPUTS))
    torch.compiler.reset()

    def function(logits, labels):
        temperature = torch.ones(2, 1)
        return segkernel.token_logprobs(logits, labels, labels[..., 0] != 0, entropy=True, temperature=temperature)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    outs, expected = compiled(logits, labels), function(logits, labels)
    assert_identical(outs, expected)
    grads = [torch.autograd.grad([out.sum() for out in given], logits) for given in (outs, expected)]
    assert_identical(grads[0], grads[1])


def test_several_labels_out_of_range_raise(value_checks: None):
    logits, labels = torch.zeros(2, 3, 7), torch.zeros(2, 3, 4, dtype=torch.int64)
    labels[1, 2, 3] = 7
    with pytest.raises(IndexError, match=r"labels: expected 0 <= label < 7, .*got 7 at \[1, 2, 3\]"):
        segkernel.token_logprobs(logits, labels)
    with pytest.raises(IndexError, match=r"labels: expected 0 <= label < 7, .*got 7 at \[1, 2, 3\]"):
        segkernel.linear_token_logprobs(torch.zeros(2, 3, 5), torch.zeros(7, 5), labels)
    mask = torch.ones(2, 3)
    mask[1, 2] = 0
    segkernel.token_logprobs(logits, labels, mask)


@pytest.mark.skipif(BACKEND == "cpu", reason="the CPU raises")
def test_several_labels_out_of_range_give_nan_on_cuda():
    logits, labels = random_logits(3, 33, dtype=torch.float32), several_labels(3, K=4, V=33)
    clean = segkernel.token_logprobs(logits, labels)
    labels[2, 1] = 33
    out = segkernel.token_logprobs(logits, labels)
    assert out[2].isnan().all()
    assert_identical(out[:2], clean[:2])


def test_several_labels_of_wrong_shapes_raise():
    logits = torch.zeros(2, 3, 7)
    for shape in ((2, 4, 5), (2, 3, 4, 1), (3, 2)):
        with pytest.raises(ValueError, match=r"labels: expected \[2, 3\] like .*, or \[2, 3, K\], got int64"):
            segkernel.token_logprobs(logits, torch.zeros(shape, dtype=torch.int64))
    for K in (0, 257):
        with pytest.raises(
            ValueError, match=rf"labels: expected 1 to 256 labels per position, got int64 \[2, 3, {K}\]"
        ):
            segkernel.token_logprobs(logits, torch.zeros(2, 3, K, dtype=torch.int64))
    labels = torch.zeros(2, 3, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"mask: expected \[2, 3\]"):
        segkernel.token_logprobs(logits, labels, torch.ones(2, 3, 4))
    with pytest.raises(ValueError, match=r"labels: expected \[2, 3\] like .*got int64 \[2, 3, 4\]"):
        segkernel.sequence_logprobs(logits, labels)
