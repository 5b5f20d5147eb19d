"""Batches with every kind of row, padded and packed; poisoned padding; exact comparison; the operators' calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

import segkernel
from segkernel import reference

# Kernels under test: "cpu", "cuda" (SEGKERNEL_TEST_DEVICE=cuda), or "emulated cuda", the CUDA kernels on CPU tensors.
BACKEND = "emulated cuda" if os.environ.get("SEGKERNEL_LIBRARY") else os.environ.get("SEGKERNEL_TEST_DEVICE", "cpu")
DEVICE = "cuda" if BACKEND == "cuda" else "cpu"  # of the tensors


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# Parameters of tests: `make test` covers two of the dtypes, `make test-slow` the others.
EVERY_DTYPE = [
    pytest.param(dtype, id=str(dtype), marks=() if dtype in (torch.float32, torch.bfloat16) else pytest.mark.slow)
    for dtype in DTYPES
]
# From empty to longer than a vector (up to 32 lanes) and a 64-token word.
LENGTHS = (0, 1, 2, 15, 16, 17, 63, 64, 65, 257, 1500)


@dataclass
class Batch:
    """The same rows padded `[B, T]` and packed `[N]`. Row `b` is packed as its first `lengths[b]` positions."""

    mask: Tensor  # bool [B, T]
    lengths: list[int]

    @property
    def cu_seqlens(self) -> Tensor:
        return torch.tensor([0, *self.lengths]).cumsum(0).to(torch.int32)

    def pack(self, padded: Tensor) -> Tensor:
        return torch.cat([row[:length] for row, length in zip(padded, self.lengths, strict=True)])

    def poison(self, values: Tensor) -> Tensor:
        """NaN wherever there is no token."""
        return values.masked_fill(~self.mask, float("nan"))


def random_batch(T: int) -> Batch:
    """One row of every kind, in no convenient order."""
    position = torch.arange(T)
    middle = (position >= T // 4) & (position < T // 2)
    rows = {
        "holes": torch.rand(T) < 0.7,
        "empty": torch.zeros(T, dtype=torch.bool),
        "dense": torch.ones(T, dtype=torch.bool),
        "right padding": position < (2 * T + 2) // 3,
        "left padding": position >= T // 3,
        "all masked": torch.zeros(T, dtype=torch.bool),
        "hole in the middle": ~middle & (position > T // 8),
        "sparse": torch.rand(T) < 0.1,
        "one token": position == (3 * T) // 4,
    }
    lengths = {"empty": 0, "right padding": int(rows["right padding"].sum())}
    return Batch(torch.stack(list(rows.values())), [lengths.get(name, T) for name in rows])


def random_scores(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random scores, half of them multiples of 1/4, so that some equal a threshold or the score before."""
    scores = torch.randn(shape, dtype=torch.float64)
    return torch.where(torch.rand(shape) < 0.5, (4 * scores).round() / 4, scores).to(dtype)


def leaves(value: object) -> list[Tensor]:
    """The tensors of an output: a tensor, or a tuple or list of tensors and None."""
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    if value is None:
        return []
    assert isinstance(value, Tensor)
    return [value]


BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(value: Tensor) -> Tensor:
    """Floating-point values as integers of their bits."""
    return value.contiguous().view(BITS[value.element_size()]) if value.is_floating_point() else value


def assert_identical(actual: object, expected: object) -> None:
    """Same dtype, shape, device and bits: -0.0 differs from 0.0, NaNs of different sign or payload from each other."""
    assert len(leaves(actual)) == len(leaves(expected))
    for a, e in zip(leaves(actual), leaves(expected), strict=True):
        assert a.dtype == e.dtype
        torch.testing.assert_close(a, e, rtol=0, atol=0, equal_nan=True)  # shape, device; a readable message
        different = (bits(a) != bits(e)).nonzero().tolist()
        assert not different, f"bits differ at {different[:10]}: {[(a[tuple(i)], e[tuple(i)]) for i in different[:3]]}"


def assert_near(actual: object, expected: object, rtol: float | None = None, atol: float | None = None) -> None:
    assert len(leaves(actual)) == len(leaves(expected))
    for a, e in zip(leaves(actual), leaves(expected), strict=True):
        torch.testing.assert_close(a, e, rtol=rtol, atol=atol, equal_nan=True)


def on_the_cpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` for CUDA tensors, computed on the CPU: a loop over tokens waits for a GPU at every one of them."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        device = next(leaf.device for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        with torch.device("cpu"):
            args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.cpu(), (args, kwargs))
            outputs = function(*args, **kwargs)
        return tree_map_only(Tensor, lambda tensor: tensor.to(device), outputs)

    return call


def tensor_arguments(*values: object) -> list[Tensor]:
    return [value for value in values if isinstance(value, Tensor)]


@contextmanager
def unchanged(*values: object) -> Iterator[None]:
    """The tensors among `values` are, bit for bit, the same afterwards."""
    tensors = tensor_arguments(*values)
    before = [tensor.detach().clone() for tensor in tensors]
    yield
    for tensor, old in zip(tensors, before, strict=True):
        assert_identical(tensor.detach(), old)


@dataclass
class ScanOp:
    """An operator over the tokens of rows, with arguments that any batch of `B` rows accepts."""

    name: str
    token_names: tuple[str, ...]
    options: Callable[[int], dict[str, Any]]  # B -> keyword arguments, some of them [B]
    differentiable: bool = False

    def __call__(self, *tokens: Tensor, **options: Any) -> Any:
        return getattr(segkernel, self.name)(*tokens, **options)

    def reference(self, *tokens: Tensor, **options: Any) -> Any:
        return getattr(reference, self.name)(*tokens, **options)

    def tokens(self, *shape: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        return [random_scores(*shape, dtype=dtype) for _ in self.token_names]


def _segment_options(B: int) -> dict[str, Any]:
    return {
        "pivot_threshold": torch.linspace(0.5, 2.0, B),
        "baseline": 0.25,
        "delta": torch.linspace(0.0, 1.0, B),
        "sequence_sign": torch.linspace(-1.0, 1.0, B),
        "reduce": "sum",
    }


def _segment_numbers(B: int) -> dict[str, Any]:
    """Arguments of `segment` with scalars for all options but the sequence sign."""
    return {
        "pivot_threshold": 1.25,
        "delta": 0.5,
        "baseline": 0.25,
        "initial": -1,
        "sequence_sign": torch.linspace(-1.0, 1.0, B),
        "reduce": "mean",
    }


SCAN_OPS = (
    ScanOp("detect_pivots", ("rewards",), lambda B: {"threshold": torch.linspace(0.0, 2.0, B)}),
    ScanOp(
        "hysteresis",
        ("rewards",),
        lambda B: {
            "low": torch.linspace(-1.0, 0.5, B),
            "high": 0.5,
            "initial": torch.arange(B) % 3 - 1,
        },
    ),
    ScanOp("segment", ("rewards",), _segment_options),
    ScanOp("segment", ("rewards",), _segment_numbers),
    ScanOp(
        "segment_by_entropy",
        ("entropy",),
        lambda B: {"threshold": torch.linspace(-1.0, 1.0, B), "min_length": 3},
    ),
    ScanOp("select_tokens", ("values",), lambda B: {"fraction": torch.linspace(0.0, 1.0, B)}),
    ScanOp("select_tokens", ("values",), lambda B: {"count": torch.arange(B) * 8, "largest": False}),
    ScanOp(
        "redistribute",
        ("prefix_scores",),
        lambda B: {
            "initial": torch.linspace(-1.0, 1.0, B),
            "sequence_rewards": torch.linspace(-2.0, 3.0, B),
            "mix": 0.75,
        },
    ),
    ScanOp(
        "gae",
        ("rewards", "values"),
        lambda B: {
            "gamma": torch.linspace(0.9, 1.0, B),
            "lam": torch.linspace(0.0, 1.0, B),
            "value_lam": torch.linspace(1.0, 0.5, B),
        },
    ),
    ScanOp(
        "importance_weights",
        ("logprobs", "rollout_logprobs"),
        lambda B: {"level": "sequence", "low": 0.5, "high": torch.linspace(0.75, 2.0, B), "mode": "mask"},
    ),
    ScanOp("discounted_sum", ("values",), lambda B: {"discount": torch.linspace(0.0, 1.0, B)}, differentiable=True),
)


class OperatorCalls(TorchFunctionMode):
    """Records the calls of segkernel's operators: `(operator, args, kwargs)`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "namespace", None) == "segkernel":
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def opcheck(call: Callable[[], Any]) -> None:
    """`torch.library.opcheck` on every operator that `call` reaches, with the arguments it reaches it with."""
    with OperatorCalls() as recorder:
        call()
    assert recorder.calls, "no operator of segkernel was called"
    for operator, args, kwargs in recorder.calls:
        torch.library.opcheck(operator, args, kwargs)
