"""The LM head and its log-probabilities without the logits: N=1024, H=896, V=151936, bf16, forward + backward."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

import segkernel
from benchmarks import peers

TOKENS, WIDTH, VOCABULARY = 1024, 896, 151936


class Case(NamedTuple):
    group: str
    implementation: str


@cache
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator).bfloat16().requires_grad_()
    weight = (torch.randn(VOCABULARY, WIDTH, generator=generator) / WIDTH**0.5).bfloat16().requires_grad_()
    return hidden, weight, torch.randint(VOCABULARY, (TOKENS,), generator=generator)


TRL = peers.trl_chunked()
IMPLEMENTATIONS = {
    "segkernel": segkernel.linear_token_logprobs,
    "segkernel, 25 % kept": lambda hidden, weight, labels: segkernel.linear_token_logprobs(
        hidden, weight, labels, torch.arange(len(hidden)) % 64 < 16
    ),
    "materialised logits": peers.materialised_logprobs,
    **({"TRL": TRL} if TRL else {}),
}


@pytest.mark.parametrize(
    "case", [Case("linear_token_logprobs forward + backward, bf16", name) for name in IMPLEMENTATIONS], ids=str
)
def test_linear(measure: Callable[..., None], case: Case) -> None:
    hidden, weight, labels = inputs()

    def step() -> None:
        hidden.grad = weight.grad = None
        IMPLEMENTATIONS[case.implementation](hidden, weight, labels).sum().backward()

    measure(case.group, case.implementation, step, rounds=1)
