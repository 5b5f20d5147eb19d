"""Gradients that overwrite the logits they belong to (`inplace_backward`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from segkernel import _validate


def overwrites(inplace_backward: bool, logits: Tensor) -> bool:
    """Whether the gradient will overwrite `logits`, which are validated if so.

    Raises:
        TypeError: `inplace_backward` is no bool.
        ValueError: logits that must keep their values, or that overlap in memory.
    """
    _validate.boolean("inplace_backward", inplace_backward)
    # A compiled graph must not write to tensors that it saved for its backward pass.
    if not (inplace_backward and logits.requires_grad and torch.is_grad_enabled()) or torch.compiler.is_compiling():
        return False
    if logits.is_leaf or (logits._base is not None and logits._base.is_leaf):
        raise ValueError(
            "inplace_backward: expected logits that an operation computed, got a leaf that requires grad (or a view of "
            "one), whose values the gradient would overwrite"
        )
    # Smallest stride first: the stride of a dimension must exceed the extent of all dimensions before it.
    extent = 1
    for stride, size in sorted(zip(logits.stride(), logits.shape, strict=True)):
        if size > 1:
            if stride < extent:
                raise ValueError(
                    f"inplace_backward: expected logits that don't overlap in memory, got {_validate.describe(logits)} "
                    f"with strides {list(logits.stride())}"
                )
            extent = stride * (size - 1) + extent
    return True


@contextmanager
def overwritten(logits: Tensor) -> Iterator[Tensor]:
    """Context that writes the gradient of `logits` into their storage, which it yields.

    Autograd then raises if another operation saved these logits for its backward pass.

    Raises:
        RuntimeError: the backward pass builds a graph.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "inplace_backward: the gradient overwrites the logits, so it cannot be differentiated again; call without "
            "create_graph=True, or without inplace_backward"
        )
    gradient = logits.detach()
    yield gradient
    torch.autograd.graph.increment_version(gradient)
