"""Program of one process of a group that shares a vocabulary: runs the cases below and saves what it got.

python -m tests.ops.vocab_parallel STORE RANK FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import Tensor

import segkernel
from segkernel.ops import vocab_parallel_token_logprobs as module

PROCESSES = 3
VOCABULARY = 37
# Shards of uneven width, by the number of processes; one is narrower than a vector, and one ends in the middle of one.
WIDTHS = {2: (30, 7), 3: (17, 1, 19)}
SHAPE = (2, 5)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.7},
    "temperature per token": {"temperature": torch.linspace(0.5, 1.5, 10).view(SHAPE)},
    "capped": {"softcap": 5.0, "logit_scale": 1.5, "temperature": 1.3},
}
DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}


def inputs(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the whole vocabulary, labels and mask. Some logits are -inf; those of masked tokens are NaN."""
    generator = torch.Generator().manual_seed(7)
    logits = (4 * torch.randn(*SHAPE, VOCABULARY, generator=generator, dtype=torch.float64)).to(dtype)
    labels = torch.randint(VOCABULARY, SHAPE, generator=generator)
    labels[0, :3] = torch.tensor([17, 29, VOCABULARY - 1])  # first or last columns of shards
    logits[0, 0, 18:] = -torch.inf  # a shard of nothing but -inf
    logits[0, 1, ::2] = -torch.inf
    logits[0, 1, 29] = 1.0
    mask = torch.ones(SHAPE, dtype=torch.bool)
    mask[1, 1] = False
    labels[1, 2] = -100
    logits[1, 1:3] = torch.nan
    return logits, labels, mask


def weights(seed: int) -> Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def results(function: Callable[..., Any], logits: Tensor, *args: Tensor, **options: Any) -> dict[str, Tensor]:
    """Outputs, and the gradient of a weighted sum of both."""
    logits = logits.clone().requires_grad_()
    logprobs, entropies = function(logits, *args, entropy=True, **options)
    ((weights(1) * logprobs).sum() + (weights(2) * entropies).sum()).backward()
    assert logits.grad is not None
    return {"logprobs": logprobs.detach(), "entropies": entropies.detach(), "gradient": logits.grad}


def head(dtype: torch.dtype) -> list[Tensor]:
    """Hidden states, weight and bias of the whole LM head; the hidden states of a masked token are NaN."""
    generator = torch.Generator().manual_seed(8)
    shapes = ((*SHAPE, 8), (VOCABULARY, 8), (VOCABULARY,))
    hidden, weight, bias = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    hidden[1, 1] = torch.nan
    return [value.to(dtype) for value in (hidden, weight, bias)]


def head_results(hidden: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> dict[str, Tensor]:
    """Outputs of `linear_token_logprobs`, and the gradients of a weighted sum of both."""
    _, labels, mask = inputs(torch.float32)
    leaves = [value.clone().requires_grad_() for value in (hidden, weight, bias)]
    logprobs, entropies = segkernel.linear_token_logprobs(
        leaves[0], leaves[1], labels, mask, bias=leaves[2], entropy=True, **options
    )
    ((weights(1) * logprobs).sum() + (weights(2) * entropies).sum()).backward()
    found = {"logprobs": logprobs.detach(), "entropies": entropies.detach()}
    for name, leaf in zip(("hidden", "weight", "bias"), leaves, strict=True):
        assert leaf.grad is not None
        found[name] = leaf.grad
    return found


def my_shard(whole: Tensor, size: int, rank: int) -> Tensor:
    return whole.split(WIDTHS[size], dim=-1)[rank]


def run_cases(group: Any, size: int, rank: int) -> dict[str, Any]:
    """Results of every case on this process's shard."""
    found: dict[str, Any] = {}
    for dtype_name, dtype in DTYPES.items():
        logits, labels, mask = inputs(dtype)
        shard = my_shard(logits, size, rank)
        for name, options in OPTIONS.items():
            found[f"{name}, {dtype_name}"] = results(
                segkernel.vocab_parallel_token_logprobs, shard, labels, mask, group=group, **options
            )
        hidden, weight, bias = head(dtype)
        rows = [value.split(WIDTHS[size])[rank] for value in (weight, bias)]
        found[f"head, {dtype_name}"] = head_results(hidden, *rows, group=group, temperature=0.7)
    logits, labels, mask = inputs(torch.float32)
    shard = my_shard(logits, size, rank)
    call = segkernel.vocab_parallel_token_logprobs
    found["first given"] = call(shard, labels, mask, group=group, first=sum(WIDTHS[size][:rank]))
    first = sum(WIDTHS[size][:rank])
    found["bytes"] = exchanged_bytes(lambda: call(shard, labels, mask, group=group, first=first))
    hidden, weight, _ = head(torch.float32)
    weight = weight.split(WIDTHS[size])[rank]
    found["bytes of head"] = exchanged_bytes(
        lambda: segkernel.linear_token_logprobs(hidden, weight, labels, mask, group=group, first=first)
    )
    leaf = shard.clone().requires_grad_()
    computed = leaf * 1.0
    call(computed, labels, mask, group=group, inplace_backward=True).sum().backward()
    found["in place"] = {"gradient": leaf.grad, "storage": computed.detach()}
    labels[0, 3] = VOCABULARY
    try:
        call(shard, labels, mask, group=group)
    except IndexError as error:
        found["label out of range"] = str(error)
    return found


def exchanged_bytes(call: Callable[[], Any]) -> list[int]:
    """Bytes that this process contributes to every collective operation of a call."""
    sent: list[int] = []
    gather = module.all_gather

    def counted(gathered: Tensor, mine: Tensor, group: Any) -> None:
        sent.append(mine.numel() * mine.element_size())
        gather(gathered, mine, group)

    with patch.object(module, "all_gather", counted):
        call()
    return sent


def main(store: str, rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    for size in WIDTHS:
        group = dist.new_group(list(range(size)))  # all processes take part in its creation
        if rank < size:
            torch.save(run_cases(group, size, rank), folder / f"{size}.{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
