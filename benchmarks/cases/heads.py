"""Log-probabilities of tokens from hidden states and an LM head."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

import segkernel
from benchmarks import peers, truth
from benchmarks.cases.case import KEPT, Case, Function
from benchmarks.cases.machine import Machine
from benchmarks.targets import BARE, OURS


def linear_token_logprobs(machine: Machine) -> Iterator[Case]:
    """LM head and log-probabilities, forward and backward, in bfloat16."""
    N, H, V = machine.shapes.head
    hidden = torch.randn(N, H, device=machine.device).bfloat16().requires_grad_()
    weight = (torch.randn(V, H, device=machine.device) / H**0.5).bfloat16().requires_grad_()
    labels = torch.randint(V, (N,), device=machine.device)
    quarter = torch.arange(N, device=machine.device) % 64 < 16

    def products() -> None:
        """The three matrix products that every head needs, with the logits in memory."""
        with torch.no_grad():
            logits = hidden @ weight.T
            torch.mm(logits, weight)
            torch.mm(logits.T, hidden)

    def kept(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        return segkernel.linear_token_logprobs(hidden, weight, labels, quarter)

    def step(function: Function | None) -> Function | None:
        return function and (lambda: function(hidden, weight, labels).sum().backward())

    def drop_gradients() -> None:
        hidden.grad = weight.grad = None

    implementations = {
        OURS: segkernel.linear_token_logprobs,
        KEPT: kept,
        **peers.heads(machine.device),
        "materialized logits": peers.materialized_logprobs,
    }
    yield Case(
        f"linear_token_logprobs, forward + backward, bf16 N={N}, H={H}, V={V}",
        {**{name: step(function) for name, function in implementations.items()}, BARE: products},
        check=lambda: truth.head(segkernel.linear_token_logprobs, hidden, weight, labels),
        before=drop_gradients,
        slow=(*implementations, BARE),
        caller_bytes=hidden.nbytes + weight.nbytes,
    )
