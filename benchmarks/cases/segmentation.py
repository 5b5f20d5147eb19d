"""Segments of a response, and the selection of its tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import segkernel
from benchmarks import peers, truth
from benchmarks.cases.case import KEPT, Case, Function, shape
from benchmarks.cases.machine import Machine
from benchmarks.targets import OURS

# Per token, `segment` reads a float32 reward and writes id, length, segment reward, sign and mask.
SEGMENT_BYTES = 4 + 4 + 4 + 4 + 1 + 1
SELECT_BYTES = 4 + 1 + 1  # per token, a float32 value and the mask are read, the selection is written


def segment(machine: Machine) -> Iterator[Case]:
    """Pivots, trigger, segments, their rewards and signs, and the loss mask."""

    def ours(rewards: Tensor) -> Any:
        return segkernel.segment(rewards, pivot_threshold=1.0, delta=0.5, sequence_sign=1)

    def kept(rewards: Tensor) -> Any:
        return segkernel.segment(rewards, masks[rewards.shape], pivot_threshold=1.0, delta=0.5, sequence_sign=1)

    def vectorized(rewards: Tensor) -> Any:
        return peers.vectorized_segment(rewards, 1.0, -0.5, 0.5, 1)

    def looped(rewards: Tensor) -> Any:
        return peers.looped_segment(rewards, 1.0, -0.5, 0.5, 1)

    masks: dict[torch.Size, Tensor] = {}
    for sizes in machine.shapes.segment:
        numel = sizes[0] * sizes[1]
        count = min(machine.rotations(4 * numel), 256)
        inputs = [(torch.randn(sizes, device=machine.device),) for _ in range(count)]
        # The response is the last quarter of each row, after its prompt.
        after_prompt = torch.arange(sizes[1], device=machine.device) >= sizes[1] * 3 // 4
        masks[inputs[0][0].shape] = after_prompt.expand(sizes).contiguous()
        implementations: dict[str, Function | None] = {OURS: ours, KEPT: kept, "vectorized torch": vectorized}
        if machine.device == "cpu" and numel < 1 << 20:  # one `.item()` per token takes minutes on a GPU
            implementations["loop over tokens"] = looped
        yield Case(
            f"segment {shape(sizes)}",
            implementations,
            inputs,
            {"": SEGMENT_BYTES * numel},
            lambda inputs=inputs: truth.scan(ours, *inputs[0]),
            captured=True,
            slow=("loop over tokens",),
        )


def scans(machine: Machine) -> Iterator[Case]:
    """Other operators on one long row, which has to be divided."""
    numel = machine.shapes.long_row
    count = min(machine.rotations(5 * numel), 64)
    tokens = [(torch.randn(1, numel, device=machine.device),) for _ in range(count)]
    functions: dict[str, tuple[Function, int]] = {  # with the bytes per token that it reads and writes
        "hysteresis": (lambda rewards: segkernel.hysteresis(rewards, low=-0.5, high=0.5), 4 + 1),
        "redistribute": (lambda scores: segkernel.redistribute(scores), 4 + 4),
        "segment_by_entropy": (
            lambda entropy: segkernel.segment_by_entropy(entropy, threshold=1.0, min_length=8),
            4 + 4,
        ),
        "discounted_sum": (lambda values: segkernel.discounted_sum(values, discount=0.99), 4 + 4),
    }
    for name, (function, moved) in functions.items():
        yield Case(
            f"{name} {shape((1, numel))}",
            {OURS: function},
            tokens,
            {"": moved * numel},
            lambda function=function: truth.scan(function, *tokens[0]),
            captured=True,
        )


def select_tokens(machine: Machine) -> Iterator[Case]:
    """A fifth of the response's tokens, those with the largest values. The response is the last 3/4 of each row."""
    fraction = 0.2
    for sizes in machine.shapes.segment:
        numel = sizes[0] * sizes[1]
        count = min(machine.rotations(5 * numel), 128)
        positions = torch.arange(sizes[1], device=machine.device)
        mask = (positions >= sizes[1] // 4).expand(sizes).contiguous()
        inputs = [(torch.randn(sizes, device=machine.device), mask) for _ in range(count)]
        k = math.ceil(fraction * (sizes[1] - sizes[1] // 4))

        def ours(values: Tensor, mask: Tensor) -> Tensor:
            return segkernel.select_tokens(values, mask, fraction=fraction)

        def of_batch(values: Tensor, mask: Tensor) -> Tensor:
            return segkernel.select_tokens(values, mask, fraction=fraction, scope="batch")

        def topk(values: Tensor, mask: Tensor, k: int = k) -> Tensor:
            return peers.topk_selection(values, mask, k)

        def quantile(values: Tensor, mask: Tensor) -> Tensor:
            return peers.quantile_selection(values, mask, fraction)

        yield Case(
            f"select_tokens {shape(sizes)}",
            {
                OURS: ours,
                f"{OURS}, whole batch": of_batch,
                "topk and scatter": topk,
                "quantile and compare": quantile,
            },
            inputs,
            {"": SELECT_BYTES * numel},
            lambda inputs=inputs, ours=ours: truth.selection(ours, *inputs[0]),
            captured=True,
        )
