"""Fake kernels, which `torch.compile` uses: on fake CUDA tensors, outputs have the shapes, dtypes and strides of the
kernels' outputs, and the device of the inputs. Needs no GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import segkernel
from tests.helpers import leaves
from tests.ops.test_cuda import CALLS, DIFFERENTIATED, make_inputs


class Recorder(TorchDispatchMode):
    """Calls of segkernel's operators, including those of the backward pass: `(operator, args, output)`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func.namespace == "segkernel":
            assert not kwargs
            self.calls.append((func, args, output))
        return output


def on_fake_cuda(value: Any) -> Any:
    return tree_map_only(
        Tensor, lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda:0"), value
    )


def layouts(value: Any) -> list[tuple[Any, ...]]:
    return [(leaf.shape, leaf.dtype, leaf.stride()) for leaf in leaves(value)]


def devices(value: Any) -> set[str]:
    return {str(leaf.device) for leaf in leaves(value)}


@pytest.mark.parametrize("name", CALLS)
def test_fake_operators_have_the_layouts_of_real_ones(name: str) -> None:
    with torch.device("cpu"), Recorder() as recorder:
        CALLS[name](segkernel, make_inputs("cpu"))
    assert (name in DIFFERENTIATED) == any("backward" in str(operator) for operator, _, _ in recorder.calls)
    for operator, args, output in recorder.calls:
        with torch.no_grad(), FakeTensorMode():
            fake = operator(*on_fake_cuda(args))
        assert layouts(fake) == layouts(output), operator
        assert devices(fake) == {"cuda:0"}, operator


# Not differentiated functions: autograd would look up the stream of a device that does not exist.
@pytest.mark.parametrize("name", [name for name in CALLS if name not in DIFFERENTIATED])
def test_fake_functions_have_the_layouts_of_real_ones(name: str) -> None:
    with torch.device("cpu"):
        inputs = make_inputs("cpu")
        output = CALLS[name](segkernel, inputs)
    with FakeTensorMode():
        fake = CALLS[name](segkernel, on_fake_cuda(inputs))
    assert layouts(fake) == layouts(output)
    assert devices(fake) == {"cuda:0"}
