"""Correctness checks on the inputs that are timed; each raises AssertionError on a wrong result.

References: float64 for log-probs of a sample of rows, the CPU kernels for scans, float32 for the LM head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from benchmarks.from_buffer import FromBuffer
from benchmarks.peers import eager_logprobs
from segkernel import reference

CHECKED_ROWS = 16


def some_rows(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Evenly spaced row indices, with the rows' logits in float64 and their labels."""
    rows = torch.linspace(0, labels.numel() - 1, CHECKED_ROWS, dtype=torch.float64, device=labels.device).long()
    return rows, logits.flatten(0, 1)[rows].double(), labels.flatten()[rows]


def logprobs_and_entropy(function: Callable[..., Any], logits: Tensor, labels: Tensor, mask: Tensor) -> None:
    """Check dense results against float64, and masked results against dense ones."""
    rows, exact_logits, exact_labels = some_rows(logits, labels)
    exact = reference.token_logprobs(exact_logits, exact_labels, entropy=True)
    for dense, masked, expected in zip(function(logits, labels), function(logits, labels, mask), exact, strict=True):
        assert_close(dense.flatten()[rows].double(), expected, rtol=1e-5, atol=1e-4)
        assert_close(masked, torch.where(mask, dense, 0), rtol=0, atol=0)


def capped(function: Callable[..., Any], logits: Tensor, labels: Tensor, softcap: float) -> None:
    """Check results under a softcap against float64."""
    rows, exact_logits, exact_labels = some_rows(logits, labels)
    exact = reference.token_logprobs(exact_logits, exact_labels, softcap=softcap, entropy=True)
    for found, expected in zip(function(logits, labels), exact, strict=True):
        assert_close(found.flatten()[rows].double(), expected, rtol=1e-5, atol=1e-4)


def divergences(function: Callable[..., Tensor], kind: str, logits: Tensor, other_logits: Tensor) -> None:
    """Check divergences against float64."""
    rows = torch.linspace(0, logits[..., 0].numel() - 1, CHECKED_ROWS, dtype=torch.float64, device=logits.device).long()
    exact = reference.token_divergences(*(x.flatten(0, 1)[rows].double() for x in (logits, other_logits)), kind=kind)
    found = function(logits, other_logits).flatten()[rows]
    assert_close(found.double(), exact.divergence, rtol=1e-5, atol=1e-5)


def few_divergences(function: Callable[..., Tensor], logits: Tensor, other_logits: Tensor, mask: Tensor) -> None:
    """Check KL divergences of masked rows against dense ones, and those against float64."""
    dense = function(logits, other_logits, torch.ones_like(mask))
    divergences(lambda *rows: dense, "kl", logits, other_logits)
    assert_close(function(logits, other_logits, mask), torch.where(mask, dense, 0), rtol=0, atol=0)


def topk_divergence(function: Callable[..., Tensor], logits: Tensor, ids: Tensor, other_logprobs: Tensor) -> None:
    """Check divergences to a teacher's most likely tokens against float64."""
    exact = reference.topk_divergence(logits[:1, :2].double(), ids[:1, :2], other_logprobs[:1, :2].double())
    assert_close(function(logits, ids, other_logprobs)[:1, :2].double(), exact, rtol=1e-4, atol=1e-5)


def outputs(function: Callable[..., Any], logits: Tensor, labels: Tensor) -> None:
    """Check all outputs against float64."""
    rows, exact_logits, exact_labels = some_rows(logits, labels)
    names = ("entropy", "sum_squares", "mean_logit", "is_argmax")
    exact = reference.token_logprobs(exact_logits, exact_labels, outputs=names)
    for found, expected in zip(function(logits, labels), exact, strict=True):
        assert_close(found.flatten()[rows].to(expected.dtype), expected, rtol=1e-5, atol=1e-4)


def several_labels(function: Callable[..., Tensor], logits: Tensor, labels: Tensor) -> None:
    """Check log-probabilities of labels `[..., K]` against float64."""
    rows, exact_logits, _ = some_rows(logits, labels[..., 0])
    exact = reference.token_logprobs(exact_logits, labels.flatten(0, 1)[rows])
    assert isinstance(exact, Tensor)
    assert_close(function(logits, labels).flatten(0, 1)[rows].double(), exact, rtol=1e-5, atol=1e-4)


def gradient_in_place(function: Callable[..., Tensor], logits: Tensor, labels: Tensor) -> None:
    """Check the gradient that `function` leaves in `logits`."""
    rows, exact_logits, exact_labels = some_rows(logits, labels)
    exact_logits.requires_grad_()
    (expected,) = torch.autograd.grad(eager_logprobs(exact_logits, exact_labels).sum(), exact_logits)
    anchor = torch.ones((), requires_grad=True, device=logits.device)
    function(FromBuffer.apply(anchor, logits), labels).sum().backward()
    assert_close(logits.flatten(0, 1)[rows].double(), expected, rtol=1e-2, atol=1e-7)


def gradient(function: Callable[..., Tensor], logits: Tensor, labels: Tensor, lse: Tensor) -> None:
    """Check the gradient of the sum of log-probs that `function` returns."""
    exact = logits.double().requires_grad_()
    (expected,) = torch.autograd.grad(eager_logprobs(exact, labels).sum(), exact)
    assert_close(function(logits, labels, lse).double(), expected, rtol=1e-2, atol=1e-7)


def scan(function: Callable[..., Any], *tokens: Tensor) -> None:
    """Compare with the CPU kernels, up to the order of sums."""
    found, expected = (function(*on_device) for on_device in (tokens, [values.cpu() for values in tokens]))
    if isinstance(found, Tensor):
        found, expected = (found,), (expected,)
    for actual, wanted in zip(found, expected, strict=True):
        tolerance = 1e-4 if wanted.is_floating_point() else 0
        assert_close(actual.cpu(), wanted, rtol=tolerance, atol=tolerance)


def equal(function: Callable[..., Any], expected: Callable[..., Any], *inputs: Tensor) -> None:
    """Compare with another implementation on the same device, up to the order of sums."""
    assert_close(function(*inputs), expected(*inputs), rtol=1e-4, atol=1e-4)


def selection(function: Callable[..., Tensor], values: Tensor, mask: Tensor) -> None:
    """Compare with the reference on the CPU."""
    expected = reference.select_tokens(values.cpu(), mask.cpu(), fraction=0.2)
    assert_close(function(values, mask).cpu(), expected, rtol=0, atol=0)


def head(function: Callable[..., Tensor], hidden: Tensor, weight: Tensor, labels: Tensor) -> None:
    """Check log-probs and both gradients against float32: relative error of each whole tensor below 1 %."""
    wide_hidden, wide_weight = (value.detach().float().requires_grad_() for value in (hidden, weight))
    expected = []
    for tokens, targets in zip(
        wide_hidden.split(1024), labels.split(1024), strict=True
    ):  # bounds the memory of the logits
        logprobs = eager_logprobs(tokens @ wide_weight.T, targets)
        logprobs.sum().backward()
        expected.append(logprobs.detach())
    actual = function(hidden, weight, labels)
    gradients = torch.autograd.grad(actual.sum(), (hidden, weight))
    wide = (torch.cat(expected), wide_hidden.grad, wide_weight.grad)
    for value, wanted in zip((actual, *gradients), wide, strict=True):
        assert wanted is not None
        error = torch.linalg.vector_norm(value.detach().float() - wanted) / torch.linalg.vector_norm(wanted)
        assert error < 1e-2, f"expected within 1e-2 of float32, got {error.item():.2g}"
