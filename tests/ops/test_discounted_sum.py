import pytest
import torch

import segkernel
from tests.helpers import assert_identical

NAN = float("nan")


def test_discounted_sum_literals():
    values = torch.tensor([[4.0, NAN, 2.0, 8.0], [NAN, NAN, NAN, NAN], [NAN, 1.0, 1.0, NAN]])
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]])
    # 8, then 2 + 8 / 2, then 4 + 6 / 2: the hole is no step.
    assert segkernel.discounted_sum(values, mask, discount=0.5).tolist() == [
        [7.0, 0.0, 6.0, 8.0],
        [0.0] * 4,
        [0.0, 1.5, 1.0, 0.0],
    ]
    assert segkernel.discounted_sum(values, mask, discount=torch.tensor([1.0, 1.0, 0.0])).tolist() == [
        [14.0, 0.0, 10.0, 8.0],
        [0.0] * 4,
        [0.0, 1.0, 1.0, 0.0],
    ]


def test_discounted_sum_packed_rows_are_independent():
    values = torch.tensor([1.0, 2.0, 4.0], dtype=torch.bfloat16)
    sums = segkernel.discounted_sum(values, discount=0.5, cu_seqlens=torch.tensor([0, 1, 1, 3]))
    assert sums.dtype == torch.float32
    assert sums.tolist() == [1.0, 4.0, 4.0]


def test_discounted_sum_gradient_literals():
    """The gradient of y_0 + 2 y_2 + 10 y_3 is the same sum from the first token to the last: 1, 2 + 1/2, 10 + 5/4."""
    for dtype in (torch.float32, torch.bfloat16):
        values = torch.tensor([[4.0, NAN, 2.0, 8.0]], dtype=dtype, requires_grad=True)
        sums = segkernel.discounted_sum(values, torch.tensor([[1, 0, 1, 1]]), discount=0.5)
        sums.backward(torch.tensor([[1.0, NAN, 2.0, 10.0]]))
        assert values.grad.dtype == dtype
        assert values.grad.tolist() == [[1.0, 0.0, 2.5, 11.25]]


def test_discounted_sum_first_and_second_derivatives_pass_gradcheck():
    mask, discount = torch.tensor([[1, 0, 1], [0, 1, 0]]), torch.tensor([0.5, 1.0])
    cu_seqlens = torch.tensor([0, 1, 3])
    for function, shape in (
        (lambda x: segkernel.discounted_sum(x, mask, discount=discount), (2, 3)),
        (lambda x: segkernel.discounted_sum(x, discount=discount, cu_seqlens=cu_seqlens), (3,)),
    ):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(lambda x, f=function: f(x).square(), x)


@pytest.mark.compiles
def test_discounted_sum_gradient_compiles_as_one_graph():
    torch.compiler.reset()
    mask, discount, weights = torch.rand(3, 20) < 0.7, torch.tensor([0.5, 0.9, 1.0]), torch.randn(3, 20)
    compiled = torch.compile(segkernel.discounted_sum, fullgraph=True, backend="aot_eager")
    values = torch.randn(3, 20, requires_grad=True)
    gradients = [
        torch.autograd.grad((weights * function(values, mask, discount=discount)).sum(), values)
        for function in (compiled, segkernel.discounted_sum)
    ]
    assert_identical(*gradients)


def test_discounted_sum_refuses_discounts_of_another_shape_and_with_gradients():
    values = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"^discount: expected .*\[2\].*got float32 \[5\]"):
        segkernel.discounted_sum(values, discount=torch.ones(5))
    with pytest.raises(
        ValueError, match=r"^discount: expected a constant, got a tensor that requires grad; call .detach\(\) on it$"
    ):
        segkernel.discounted_sum(values, discount=torch.ones(2, requires_grad=True))
