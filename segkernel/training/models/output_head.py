"""The output head of a language model, run only at some positions.

A head multiplies every hidden state by a matrix of the vocabulary's size, often most of the arithmetic of a small
model, and its logits are the largest tensor of a training step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from segkernel.training.models.forward import innermost, is_compiled

__all__ = ["head_at"]


@contextmanager
def head_at(model: nn.Module, positions: Tensor) -> Iterator[None]:
    """Context in which a model's head runs only at some positions, so its logits are `[1, N, V]` in their order.

    The logits stay `[rows, T, V]` where the head cannot be chosen: a compiled model, or one whose output embedding is
    not a module that takes the hidden states `[rows, T, H]`.

    Args:
        model: causal language model, in any wrapper.
        positions: boolean `[rows, T]`, `N` of them true.
    """
    head = _output_embedding(model)
    if head is None or is_compiled(model):  # compiled code may keep the hook beyond this context, or leave it out
        yield
        return

    def select(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not inputs or not isinstance(inputs[0], Tensor) or inputs[0].shape[:-1] != positions.shape:
            return None
        chosen = positions.flatten().nonzero().squeeze(-1)
        return inputs[0].flatten(0, 1).index_select(0, chosen)[None], *inputs[1:]

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def _output_embedding(model: nn.Module) -> nn.Module | None:
    try:
        head = getattr(innermost(model), "get_output_embeddings", lambda: None)()
    except NotImplementedError:
        return None
    return head if isinstance(head, nn.Module) else None
