"""Log-probabilities of tokens from logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import segkernel
from benchmarks import peers, truth
from benchmarks.cases.case import KEPT, Case, shape
from benchmarks.cases.machine import Machine, quarter_of_tokens, random_logits
from benchmarks.from_buffer import backward_step
from benchmarks.targets import FEW, FEW_BACKWARD, OURS

SOFTCAP = 30.0  # Gemma's


def of_shards(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Any:
    """Log-probabilities and entropies from two shards of the vocabulary on one device."""
    half = logits.shape[-1] // 2
    states = [
        segkernel.logprob_state(shard, labels, mask, first=first)
        for shard, first in ((logits[..., :half], 0), (logits[..., half:], half))
    ]
    return segkernel.finish_logprobs(segkernel.merge_logprob_states(torch.stack(states)))


def token_logprobs(machine: Machine) -> Iterator[Case]:
    """Log-probabilities and entropy, forward: all tokens, and a quarter of them in runs of 16."""
    for dtype in machine.shapes.dtypes:
        logits, labels = random_logits(machine, dtype)
        mask = quarter_of_tokens(labels)

        def ours(*inputs: Tensor) -> Any:
            return segkernel.token_logprobs(*inputs, entropy=True)

        def kept(logits: Tensor, labels: Tensor, mask: Tensor = mask) -> Any:
            return ours(logits, labels, mask)

        yield Case(
            f"token_logprobs + entropy, forward, {dtype} {shape(machine.shapes.logits)}",
            {
                OURS: ours,
                KEPT: kept,
                **peers.logprobs_and_entropy(machine.device),
                "torch.compile": machine.compiled(peers.eager_logprobs_and_entropy),
                "eager torch": peers.eager_logprobs_and_entropy,
            },
            [(logits, labels)],
            {"": logits.nbytes, KEPT: int(logits.nbytes * mask.float().mean())},
            lambda inputs=(logits, labels, mask): truth.logprobs_and_entropy(ours, *inputs),
        )

        def all_outputs(*inputs: Tensor) -> Any:
            names = ("entropy", "sum_squares", "mean_logit", "is_argmax")
            return segkernel.token_logprobs(*inputs, outputs=names)

        yield Case(
            f"token_logprobs + all outputs, forward, {dtype} {shape(machine.shapes.logits)}",
            {
                OURS: all_outputs,
                "torch.compile": machine.compiled(peers.eager_outputs),
                "eager torch": peers.eager_outputs,
            },
            [(logits, labels)],
            {"": logits.nbytes},
            lambda inputs=(logits, labels), ours=all_outputs: truth.outputs(ours, *inputs),
        )

        K = 16  # a teacher's most likely tokens
        several = torch.randint(logits.shape[-1], (*labels.shape, K), device=machine.device)
        yield Case(
            f"token_logprobs of {K} labels, forward, {dtype} {shape(machine.shapes.logits)}",
            {
                OURS: segkernel.token_logprobs,
                "torch.compile": machine.compiled(peers.eager_logprobs_of_several),
                "eager torch": peers.eager_logprobs_of_several,
            },
            [(logits, several)],
            {"": logits.nbytes},
            lambda inputs=(logits, several): truth.several_labels(segkernel.token_logprobs, *inputs),
        )

        def capped(logits: Tensor, labels: Tensor) -> Any:
            return segkernel.token_logprobs(logits, labels, softcap=SOFTCAP, entropy=True)

        def eager_capped(logits: Tensor, labels: Tensor) -> Any:
            return peers.eager_capped(logits, labels, SOFTCAP)

        yield Case(
            f"token_logprobs + entropy, softcap, forward, {dtype} {shape(machine.shapes.logits)}",
            {OURS: capped, "torch.compile": machine.compiled(eager_capped), "eager torch": eager_capped},
            [(logits, labels)],
            {"": logits.nbytes},
            lambda logits=logits, labels=labels, ours=capped: truth.capped(ours, logits, labels, SOFTCAP),
        )

        yield Case(
            f"token_logprobs + entropy of two shards, forward, {dtype} {shape(machine.shapes.logits)}",
            {OURS: of_shards, f"{OURS}, one shard": ours},
            [(logits, labels)],
            {"": logits.nbytes},
            lambda inputs=(logits, labels, mask): truth.logprobs_and_entropy(of_shards, *inputs),
        )

        # Few rows, in the layout of one short batch. The masks keep other rows each.
        for rows in (min(512, labels.numel()), min(64, labels.numel())):
            few, few_labels = logits.flatten(0, 1)[None, :rows], labels.view(1, -1)[:, :rows]
            turns = torch.arange(rows, device=machine.device) // min(16, rows // 4) % 4
            inputs = [(few, few_labels, (turns == turn)[None]) for turn in range(4)]
            yield Case(
                f"{FEW}: {rows // 4} of {rows} kept, {dtype} V={logits.shape[-1]}",
                {OURS: ours},
                inputs,
                {"": few.nbytes // 4},
                lambda inputs=inputs[0]: truth.logprobs_and_entropy(ours, *inputs),
                captured=True,
            )


def token_logprobs_backward(machine: Machine) -> Iterator[Case]:
    """Log-probabilities, forward and backward; the gradient replaces the logits where an implementation can do so."""
    for dtype in machine.shapes.dtypes:
        original, labels = random_logits(machine, dtype)
        logits = original.clone()

        def ours(logits: Tensor, labels: Tensor) -> Tensor:
            return segkernel.token_logprobs(logits, labels, inplace_backward=True)

        implementations = {
            OURS: ours,
            f"{OURS}, fresh gradient": segkernel.token_logprobs,
            **peers.logprob_losses(machine.device),
            "torch.compile": machine.compiled(peers.eager_logprobs),
            "eager torch": peers.eager_logprobs,
        }
        yield Case(
            f"token_logprobs, forward + backward, {dtype} {shape(machine.shapes.logits)}",
            {name: backward_step(function, logits, labels) for name, function in implementations.items()},
            bytes_moved={"": 3 * logits.nbytes},  # one read forward, one read and one write backward
            check=lambda logits=logits, labels=labels: truth.gradient_in_place(ours, logits, labels),
            before=lambda logits=logits, original=original: logits.copy_(original),
        )

        rows = min(128, labels.numel() // 4)
        weights = torch.ones(rows, device=machine.device)
        inputs = [
            (
                few,
                few_labels,
                torch.ops.segkernel.token_logprobs(few, few_labels, None, None, 1.0, 1.0, None, 0, False)[2],
            )
            for few, few_labels in zip(
                original.flatten(0, 1).split(rows)[:4], labels.flatten().split(rows)[:4], strict=True
            )
        ]

        def backward(logits: Tensor, labels: Tensor, lse: Tensor, weights: Tensor = weights) -> Tensor:
            return torch.ops.segkernel.token_logprobs_backward(
                weights, None, logits, labels, None, None, weights, lse, 1.0, 1.0, None
            )

        yield Case(
            f"{FEW_BACKWARD}: {rows}, {dtype} V={logits.shape[-1]}",
            {OURS: backward},
            inputs,
            {"": 2 * inputs[0][0].nbytes},
            lambda inputs=inputs[0], backward=backward: truth.gradient(backward, *inputs),
            captured=True,
        )
