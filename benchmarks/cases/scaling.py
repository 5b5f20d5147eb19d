"""Growth of the cost of log-probabilities with the tokens kept, the tokens and the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import segkernel
from benchmarks import peers, truth
from benchmarks.cases.case import Case, shape
from benchmarks.cases.machine import Machine, random_logits
from benchmarks.targets import BY_SHARE, BY_TOKENS, BY_VOCABULARY, OURS


def scaling(machine: Machine) -> Iterator[Case]:
    """Log-probabilities and entropy of more tokens, of a larger vocabulary, and of a smaller share of kept tokens."""
    dtype = machine.shapes.dtypes[-1]
    logits, labels = random_logits(machine, dtype)
    logits, labels = logits.flatten(0, 1)[None], labels.view(1, -1)
    tokens, vocabulary = logits.shape[1:]

    def ours(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Any:
        return segkernel.token_logprobs(logits, labels, mask, entropy=True)

    def case(series: str, logits: Tensor, labels: Tensor, divisor: int = 1) -> Case:
        mask = (torch.arange(labels.shape[1], device=machine.device) % divisor == 0)[None]
        kept = f", 1 of {divisor} kept" if divisor > 1 else ""
        return Case(
            f"{series}: token_logprobs + entropy, {dtype} {shape(tuple(logits.shape[1:]))}{kept}",
            {
                OURS: lambda logits, labels: ours(logits, labels, mask if divisor > 1 else None),
                **peers.logprobs_and_entropy(machine.device),
                "eager torch": peers.eager_logprobs_and_entropy,
            },
            [(logits, labels)],
            {"": logits.nbytes, OURS: logits.nbytes * int(mask.sum()) // labels.numel()},
            lambda: truth.logprobs_and_entropy(ours, logits, labels, mask),
        )

    for divisor in (1, 2, 4, 8, 16, 32):
        yield case(BY_SHARE, logits, labels, divisor)
    for divisor in (16, 4, 1):
        yield case(BY_TOKENS, logits[:, : tokens // divisor], labels[:, : tokens // divisor])
    for divisor in (16, 4, 1):
        width = vocabulary // divisor
        yield case(BY_VOCABULARY, logits[..., :width].contiguous(), labels.clamp(max=width - 1))
