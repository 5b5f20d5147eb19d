"""Comparison of a function with its replacement on a small batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segkernel.integrations.targets import Function, PassBack, Target


def disagreement(theirs: Any, target: Target) -> str:
    """Reason why both functions disagree on the target's example; empty if values and gradients agree."""
    original = getattr(theirs, "apply", theirs)
    try:
        expected = _values_and_gradients(original, target)
        actual = _values_and_gradients(target.replacement, target)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    except PassBack as reason:
        return f"the example was passed back ({reason})"
    except AssertionError as error:
        return f"results differ: {' '.join(str(error).split())}"
    except Exception as error:  # in a function of another package, as a kernel for GPUs on the CPU
        return f"the example fails: {type(error).__name__}: {' '.join(str(error).split())}"
    return ""


def _values_and_gradients(function: Function, target: Target) -> list[Tensor]:
    """Outputs, and the gradients of a fixed combination of them with respect to the arguments that require one."""
    assert target.example is not None
    arguments = target.example()
    outputs = [value for value in _flat(function(*arguments)) if isinstance(value, Tensor)]
    leaves = [value for value in arguments if isinstance(value, Tensor) and value.requires_grad]
    differentiable = [value for value in outputs if value.requires_grad]
    if not leaves or not differentiable:
        return [value.detach() for value in outputs]
    weights = [torch.linspace(-1, 1, value.numel()).view(value.shape) for value in differentiable]
    total = sum((value.float() * weight).sum() for value, weight in zip(differentiable, weights, strict=True))
    assert isinstance(total, Tensor)
    return [value.detach() for value in outputs] + list(torch.autograd.grad(total, leaves))


def _flat(value: Any) -> list[Any]:
    return [each for part in value for each in _flat(part)] if isinstance(value, tuple | list) else [value]
