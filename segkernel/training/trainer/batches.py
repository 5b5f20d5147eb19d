"""Batches of rows: onto the device, through a model, and a frozen model's columns for every row of them."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm.auto import tqdm

from segkernel.training.data.collators import PreferenceCollator, ResponseCollator
from segkernel.training.trainer.base import SegkernelConfig

Rows = list[dict[str, Any]]
Batch = dict[str, Tensor]


def on_device(batch: Batch, device: torch.device) -> Batch:
    return {name: values.to(device) for name, values in batch.items()}


def response_batch(
    prompts: Sequence[list[int]], responses: Sequence[list[int]], collator: ResponseCollator, device: torch.device
) -> Batch:
    """Prompts and their responses, `[B, T]`."""
    rows = [{"prompt_ids": p, "response_ids": r} for p, r in zip(prompts, responses, strict=True)]
    return on_device(collator(rows), device)


def model_logits(model: nn.Module, batch: Batch) -> Tensor:
    """One forward over a batch `[B, T]`, or over both sides of every pair, `[B, 2, T]`: `[B, T, V]`, or
    `[2 * B, T, V]` with rows chosen, rejected, chosen, ..."""
    inputs = {name: batch[name].flatten(0, -2) for name in ("input_ids", "attention_mask", "position_ids")}
    unwrapped = getattr(model, "module", model)
    if "position_ids" not in inspect.signature(unwrapped.forward).parameters:
        del inputs["position_ids"]
    return model(**inputs).logits


def map_batches(
    columns: Callable[[Batch], Rows],
    rows: Rows,
    collator: PreferenceCollator | ResponseCollator,
    args: SegkernelConfig,
    description: str,
) -> Rows:
    """Add to every row, a pair or a response, the columns that a frozen model gives for it, in batches, without
    gradients.

    Rows of like length go together, and the processes of a distributed run share the batches.
    """
    responses = [name for name in ("chosen_ids", "rejected_ids", "response_ids") if name in rows[0]]
    lengths = [len(row["prompt_ids"]) + max(len(row[name]) for name in responses) for row in rows]
    order = sorted(range(len(rows)), key=lengths.__getitem__, reverse=True)
    size = args.per_device_eval_batch_size
    batches = [order[first : first + size] for first in range(0, len(order), size)]
    found: list[tuple[int, dict[str, Any]]] = []
    half = torch.float16 if args.fp16 else torch.bfloat16
    with torch.no_grad(), torch.autocast(args.device.type, dtype=half, enabled=args.fp16 or args.bf16):
        # The same number for every process: a model sharded over them computes with all of them or not at all.
        batches += batches[-1:] * (-len(batches) % args.world_size)
        mine = batches[args.process_index :: args.world_size]
        for indices in tqdm(mine, desc=description, disable=args.disable_tqdm):
            batch = on_device(collator([rows[index] for index in indices]), args.device)
            found += zip(indices, columns(batch), strict=True)
    new = dict(gather_object(found))
    return [{**row, **new[index]} for index, row in enumerate(rows)]
