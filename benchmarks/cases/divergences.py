"""Divergences of two models' next-token distributions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import segkernel
from benchmarks import peers, truth
from benchmarks.cases.case import KEPT, Case, Function, shape
from benchmarks.cases.machine import Machine, quarter_of_tokens, random_logits
from benchmarks.from_buffer import backward_step
from benchmarks.targets import OURS


def token_divergences(machine: Machine) -> Iterator[Case]:
    """Divergences of two models' logits with their entropies, and the KL with its gradient in place."""
    for dtype in machine.shapes.dtypes:
        whole, _ = random_logits(machine, dtype)
        original = whole[: len(whole) // 2].clone()
        logits, others = original.clone(), (original + 0.3 * torch.randn_like(original)).to(original.dtype)
        mask = quarter_of_tokens(logits)

        for kind, eager in peers.EAGER_DIVERGENCES.items():

            def ours(logits: Tensor, others: Tensor, mask: Tensor | None = None, kind: str = kind) -> Tensor:
                return segkernel.token_divergences(logits, others, mask, kind=kind).divergence

            def kept(logits: Tensor, others: Tensor, ours: Function = ours, mask: Tensor = mask) -> Any:
                return ours(logits, others, mask)

            yield Case(
                f"token_divergences, {kind}, forward, {dtype} {shape(tuple(logits.shape))}",
                {
                    OURS: ours,
                    KEPT: kept,
                    **peers.divergences(machine.device, kind),
                    "torch.compile": machine.compiled(eager),
                    "eager torch": eager,
                },
                [(logits, others)],
                {"": 2 * logits.nbytes, KEPT: int(2 * logits.nbytes * mask.float().mean())},
                lambda inputs=(logits, others), ours=ours, kind=kind: truth.divergences(ours, kind, *inputs),
            )

        def in_place(logits: Tensor, others: Tensor) -> Tensor:
            return segkernel.token_divergences(logits, others, inplace_backward=True).divergence

        implementations = {
            OURS: in_place,
            **peers.divergences(machine.device, "kl"),
            "torch.compile": machine.compiled(peers.eager_kl),
            "eager torch": peers.eager_kl,
        }
        yield Case(
            f"token_divergences, kl, forward + backward, {dtype} {shape(tuple(logits.shape))}",
            {name: backward_step(function, logits, others) for name, function in implementations.items()},
            bytes_moved={"": 5 * logits.nbytes},  # two reads forward, two reads and a write backward
            check=lambda inputs=(logits, others), ours=in_place: truth.divergences(ours, "kl", *inputs),
            before=lambda logits=logits, original=original: logits.copy_(original),
        )
        rows = min(512, logits.shape[0] * logits.shape[1])
        few = [x.flatten(0, 1)[None, :rows] for x in (logits, others)]
        turns = torch.arange(rows, device=machine.device) // min(16, rows // 4) % 4
        inputs = [(*few, (turns == turn)[None]) for turn in range(4)]

        def of_few(logits: Tensor, others: Tensor, mask: Tensor) -> Tensor:
            return segkernel.token_divergences(logits, others, mask).divergence

        yield Case(
            f"token_divergences, kl, few rows: {rows // 4} of {rows} kept, {dtype} V={logits.shape[-1]}",
            {OURS: of_few},
            inputs,
            {"": 2 * few[0].nbytes // 4},
            lambda inputs=inputs[0]: truth.few_divergences(of_few, *inputs),
            captured=True,
        )

        K = min(64, logits.shape[-1] // 2)
        known, ids = others.log_softmax(-1, dtype=torch.float32).topk(K)
        yield Case(
            f"topk_divergence, kl, K={K}, forward, {dtype} {shape(tuple(logits.shape))}",
            {
                OURS: segkernel.topk_divergence,
                "torch.compile": machine.compiled(peers.eager_topk_divergence),
                "eager torch": peers.eager_topk_divergence,
            },
            [(logits, ids, known)],
            {"": logits.nbytes},
            lambda inputs=(logits, ids, known): truth.topk_divergence(segkernel.topk_divergence, *inputs),
        )
    yield divergence_of_heads(machine)


def divergence_of_heads(machine: Machine) -> Case:
    """KL from the hidden states and LM heads of two models, in bfloat16, with all logits in memory or in tiles."""
    N, H, V = machine.shapes.head
    N //= 4
    tensors = [
        (torch.randn(*sizes, device=machine.device) / scale).bfloat16()
        for sizes, scale in (((N, H), 1), ((V, H), H**0.5)) * 2
    ]
    trained = [tensor.requires_grad_() for tensor in tensors[:2]]

    def ours(hidden: Tensor, weight: Tensor, other_hidden: Tensor, other_weight: Tensor) -> Tensor:
        with torch.no_grad():
            others = other_hidden @ other_weight.T
        return segkernel.token_divergences(hidden @ weight.T, others, inplace_backward=True).divergence

    def step(function: Function | None) -> Function | None:
        return function and (lambda: function(*tensors).sum().backward())

    def drop_gradients() -> None:
        for tensor in trained:
            tensor.grad = None

    implementations = {OURS: ours, "TRL chunked": peers.trl_chunked_divergence()}
    return Case(
        f"token_divergences, kl, of two heads, forward + backward, bf16 N={N}, H={H}, V={V}",
        {name: step(function) for name, function in implementations.items()},
        check=lambda: truth.divergences(
            lambda logits, others: segkernel.token_divergences(logits, others).divergence,
            "kl",
            *((hidden @ weight.T).detach()[None] for hidden, weight in (tensors[:2], tensors[2:])),
        ),
        before=drop_gradients,
        slow=tuple(implementations),
        caller_bytes=sum(tensor.nbytes for tensor in trained),
    )
