"""Logits for timing backward passes without a model that computes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class FromBuffer(torch.autograd.Function):
    """Identity that returns the logits as a non-leaf tensor, whose storage autograd may overwrite."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, logits: Tensor) -> Tensor:
        shared: Any = torch.empty(0, dtype=logits.dtype, device=logits.device)
        return shared.set_(logits)  # shares the storage without being a view

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        return None, None


def backward_step(function: Callable[..., Tensor] | None, logits: Tensor, other: Tensor) -> Callable[[], None] | None:
    """Forward and backward pass of `function(logits, other)`, whose gradient may overwrite `logits`; None for None."""
    if function is None:
        return None
    anchor = torch.ones((), requires_grad=True, device=logits.device)
    return lambda: function(FromBuffer.apply(anchor, logits), other).sum().backward()
