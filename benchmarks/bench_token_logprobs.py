"""Log-probabilities and entropy of logits [4, 256, 151936], forward, backward, and with fewer tokens kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import segkernel
from benchmarks import peers
from benchmarks.from_buffer import FromBuffer

ROWS, LENGTH, VOCABULARY = 4, 256, 151936
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Case(NamedTuple):
    group: str
    dtype: str
    implementation: str


@cache
def inputs(dtype: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.empty(ROWS, LENGTH, VOCABULARY, dtype=DTYPES[dtype]).normal_(0, 2, generator=generator)
    return logits, torch.randint(VOCABULARY, (ROWS, LENGTH), generator=generator)


def runs_of_kept(share: float) -> Tensor:
    """A mask that keeps `share` of the tokens in runs of 16, as segments do."""
    period = round(16 / share)
    return (torch.arange(LENGTH) % period < 16).expand(ROWS, LENGTH).contiguous()


FORWARD: dict[str, Callable[..., Any] | None] = {
    "segkernel": lambda logits, labels: segkernel.token_logprobs(logits, labels, entropy=True),
    "torch.compile": peers.compiled(peers.eager_logprobs_and_entropy),
    "eager torch": peers.eager_logprobs_and_entropy,
    "TRL": peers.installed("trl.trainer.utils", "selective_log_softmax_and_entropy"),
}
BACKWARD: dict[str, Callable[..., Any] | None] = {
    "segkernel": lambda logits, labels: segkernel.token_logprobs(logits, labels, inplace_backward=True),
    "segkernel, fresh gradient": segkernel.token_logprobs,
    "torch.compile": peers.compiled(peers.eager_logprobs),
    "TRL": peers.installed("trl.trainer.utils", "selective_log_softmax"),
}


def cases(what: str, functions: dict[str, Callable[..., Any] | None]) -> list[Case]:
    names = [name for name, function in functions.items() if function is not None]
    return [Case(f"token_logprobs {what} {dtype}", dtype, name) for dtype in DTYPES for name in names]


@pytest.mark.parametrize("case", cases("+ entropy, forward,", FORWARD), ids=str)
def test_forward(measure: Callable[..., None], case: Case) -> None:
    logits, labels = inputs(case.dtype)
    function = FORWARD[case.implementation]
    assert function is not None
    with torch.no_grad():
        measure(case.group, case.implementation, lambda: function(logits, labels), bytes_moved=logits.nbytes)


@pytest.mark.parametrize("case", cases("forward + backward,", BACKWARD), ids=str)
def test_backward(measure: Callable[..., None], case: Case) -> None:
    logits, labels = inputs(case.dtype)
    function = BACKWARD[case.implementation]
    assert function is not None
    anchor = torch.ones((), requires_grad=True)

    def step() -> None:
        function(FromBuffer.apply(anchor, logits), labels).sum().backward()

    # One read forward, one read and one write backward.
    measure(case.group, case.implementation, step, rounds=3, bytes_moved=3 * logits.nbytes)


@pytest.mark.parametrize(
    "case",
    [
        Case(f"token_logprobs by tokens kept, {dtype}", dtype, kept)
        for dtype in DTYPES
        for kept in ("100 %", "50 %", "25 %")
    ],
    ids=str,
)
def test_kept(measure: Callable[..., None], case: Case) -> None:
    logits, labels = inputs(case.dtype)
    share = int(case.implementation.removesuffix(" %")) / 100
    mask = runs_of_kept(share)
    with torch.no_grad():
        measure(
            case.group,
            case.implementation,
            lambda: segkernel.token_logprobs(logits, labels, mask, entropy=True),
            bytes_moved=int(logits.nbytes * mask.float().mean()),
        )


# The machine's own streaming read bandwidth, on the same logits: the fastest whole-tensor reductions of torch.
READS: dict[str, Callable[[Tensor], Any]] = {"sum": torch.sum, "max": torch.amax}


@pytest.mark.parametrize("case", [Case("streaming read", "fp32", name) for name in READS], ids=str)
def test_streaming_read(measure: Callable[..., None], case: Case) -> None:
    logits, _ = inputs(case.dtype)
    words = logits.view(-1)
    measure(case.group, case.implementation, lambda: READS[case.implementation](words), bytes_moved=logits.nbytes)
