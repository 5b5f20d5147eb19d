"""Steps from rewards to advantages and the weights of the loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import segkernel
from benchmarks import peers, truth
from benchmarks.cases.case import Case, Function, shape
from benchmarks.cases.machine import Machine
from benchmarks.targets import OURS

GAE_BYTES = 4 * 4


def gae(machine: Machine) -> Iterator[Case]:
    """Generalized advantage estimation."""

    def ours(rewards: Tensor, values: Tensor) -> Any:
        return segkernel.gae(rewards, values, gamma=0.99, lam=0.95)

    def looped(rewards: Tensor, values: Tensor) -> Any:
        return peers.looped_gae(rewards, values, 0.99, 0.95)

    for sizes in machine.shapes.gae:
        numel = sizes[0] * sizes[1]
        count = min(machine.rotations(8 * numel), 128)
        inputs = [tuple(torch.randn(sizes, device=machine.device) for _ in range(2)) for _ in range(count)]
        implementations: dict[str, Function | None] = {OURS: ours, **peers.advantages(machine.device, inputs[0][0])}
        if sizes[1] < 1 << 20:  # a step takes 10 microseconds
            implementations["loop over steps"] = looped
        yield Case(
            f"gae {shape(sizes)}",
            implementations,
            inputs,
            {"": GAE_BYTES * numel},
            lambda inputs=inputs: truth.scan(ours, *inputs[0]),
            captured=True,
            slow=("loop over steps",),
        )


def credit(machine: Machine) -> Iterator[Case]:
    """Steps from rewards to advantages: discounted sums, turns, normalization within groups, importance weights."""
    rows, length = sizes = machine.shapes.gae[0]
    numel = rows * length

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=machine.device)

    # Turns of 48 tokens between tool output of 16.
    turns = (torch.arange(length, device=machine.device) % 64 < 48).expand(sizes).contiguous()
    # Groups of 8 samples with up to 16 rewards each.
    samples = numel // 16
    group = torch.arange(samples, device=machine.device) // 8
    counts = torch.randint(1, 17, (samples,), device=machine.device)

    def discounted(values: Tensor) -> Tensor:
        return segkernel.discounted_sum(values, discount=0.99)

    def runs(mask: Tensor) -> Any:
        return segkernel.segment_by_mask(mask)

    def looped(values: Tensor) -> Tensor:
        return peers.looped_discounted_sum(values, 0.99)

    def normalized(values: Tensor) -> Tensor:
        return segkernel.group_normalize(values, counts, group)

    def scattered(values: Tensor) -> Tensor:
        return peers.scattered_group_normalize(values, counts, group)

    def weights(logprobs: Tensor, rollout_logprobs: Tensor) -> Any:
        return segkernel.importance_weights(logprobs, rollout_logprobs, turns, level="sequence", high=2.0)

    def eager_weights(logprobs: Tensor, rollout_logprobs: Tensor) -> Any:
        log_ratios = torch.where(turns, logprobs - rollout_logprobs, 0.0)
        ratios = (log_ratios.sum(1, keepdim=True) / turns.sum(1, keepdim=True)).exp().clamp(max=2.0)
        return torch.where(turns, ratios, 0.0), turns

    for name, ours, (peer, theirs), inputs, moved in (
        (f"discounted_sum {shape(sizes)}", discounted, ("loop over steps", looped), (random(*sizes),), 8),
        (
            f"segment_by_mask {shape(sizes)}",
            segkernel.segment_by_mask,
            ("eager torch", peers.vectorized_runs),
            (turns,),
            5,
        ),
        (
            f"group_normalize {shape((samples, 16))}",
            normalized,
            ("scatter_add", scattered),
            (random(samples, 16),),
            8,
        ),
        (
            f"importance_weights, per sequence {shape(sizes)}",
            weights,
            ("eager torch", eager_weights),
            (random(*sizes), random(*sizes)),
            14,
        ),
    ):
        yield Case(
            name,
            {OURS: ours, peer: theirs},
            [inputs],
            {"": moved * numel},
            lambda ours=ours, theirs=theirs, inputs=inputs: truth.equal(ours, theirs, *inputs),
            captured=True,
            slow=("loop over steps",),
        )
