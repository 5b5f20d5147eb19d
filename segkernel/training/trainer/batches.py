"""Batches on a device, forward passes over them, and columns that a frozen model gives for every row of a data set."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from accelerate.utils import gather_object
from datasets import Dataset, Features
from torch import Tensor, nn
from torch.utils.data import DataLoader

from segkernel.training.data.collators import PreferenceCollator, ResponseCollator
from segkernel.training.data.columns import PAIRS, RESPONSES, SIDES
from segkernel.training.data.tables import Array, FlatLists, columns_of_sides, list_lengths, with_columns
from segkernel.training.models.forward import takes_position_ids, without_cache
from segkernel.training.progress import track
from segkernel.training.trainer.base import SegkernelConfig

Batch = dict[str, Tensor]


class Lists(NamedTuple):
    """One list per response of a batch: the `values` `[R, T]` under a boolean `mask` `[R, T]`.

    The responses of pairs are rows of their own: chosen, rejected, chosen, ...
    """

    values: Tensor
    mask: Tensor

    def flatten(self) -> FlatLists:
        return FlatLists(_to_numpy(self.values[self.mask]), _to_numpy(self.mask.sum(1)))


# New columns of a batch's rows: one entry per row in a tensor `[B]` or `[B, 2]`, or one list per response.
Columns = Mapping[str, Tensor | Lists]


def on_device(batch: Batch, device: torch.device) -> Batch:
    return {name: values.to(device) for name, values in batch.items()}


def response_batch(
    prompts: Sequence[list[int]], responses: Sequence[list[int]], collator: ResponseCollator, device: torch.device
) -> Batch:
    """Batch `[B, T]` of prompts with their responses."""
    rows = [{"prompt_ids": p, "response_ids": r} for p, r in zip(prompts, responses, strict=True)]
    return on_device(collator(rows), device)


def model_logits(model: nn.Module, batch: Batch) -> Tensor:
    """A model's outputs `[B, T, V]` for a batch `[B, T]`.

    For both sides of pairs, `[B, 2, T]`, they are `[2 * B, T, V]` with rows chosen, rejected, chosen, ...

    For a language model, `response_logits` computes only those that a loss reads.
    """
    inputs = {name: batch[name].flatten(0, -2) for name in ("input_ids", "attention_mask", "position_ids")}
    if not takes_position_ids(model):
        del inputs["position_ids"]
    logits: Tensor = model(**inputs, **without_cache(model)).logits
    return logits


def map_batches(
    columns: Callable[[Batch], Columns],
    dataset: Dataset,
    collator: PreferenceCollator | ResponseCollator,
    args: SegkernelConfig,
    description: str,
) -> Dataset:
    """Add the columns that a function returns for batches of pairs or of responses, without gradients.

    Rows of similar length share a batch, and the processes of a distributed run share the batches. `Lists` of pairs
    become the columns `chosen_<name>` and `rejected_<name>`.
    """
    pairs = isinstance(collator, PreferenceCollator)
    responses = [f"{side}_ids" for side in SIDES] if pairs else ["response_ids"]
    lengths = list_lengths(dataset, "prompt_ids") + np.max([list_lengths(dataset, name) for name in responses], axis=0)
    order = np.argsort(-lengths, kind="stable").tolist()
    size = args.per_device_eval_batch_size
    batches = [order[first : first + size] for first in range(0, len(order), size)]
    # Every process gets the same number of batches: a model sharded over them computes with all of them or not at all.
    batches += batches[-1:] * (-len(batches) % args.world_size)
    mine = batches[args.process_index :: args.world_size]
    found: list[tuple[list[int], dict[str, Array | FlatLists]]] = []
    half = torch.float16 if args.fp16 else torch.bfloat16
    with torch.no_grad(), torch.autocast(args.device.type, dtype=half, enabled=args.fp16 or args.bf16):
        shown = description if args.process_index == 0 else None
        loaded = _load(dataset, mine, collator)
        for indices, batch in track(loaded, shown, total=len(mine), disable_tqdm=args.disable_tqdm):
            new = columns(on_device(batch, args.device))
            flat = {name: v.flatten() if isinstance(v, Lists) else _to_numpy(v) for name, v in new.items()}
            found.append((indices, flat))
    return _join(dataset, gather_object(found), PAIRS if pairs else RESPONSES)


def _load(
    dataset: Dataset, batches: list[list[int]], collator: PreferenceCollator | ResponseCollator
) -> Iterator[tuple[list[int], Batch]]:
    # With a generator of its own: a loader draws a seed, which would change the random numbers of the training.
    loader = DataLoader(
        dataset.with_format("numpy"),
        batch_sampler=batches,
        collate_fn=collator,
        generator=torch.Generator(),
    )
    return zip(batches, loader, strict=True)


def _join(dataset: Dataset, found: list[tuple[list[int], dict[str, Array | FlatLists]]], schema: Features) -> Dataset:
    """Add columns that were found batch by batch, in the order of the data set."""
    done = np.concatenate([indices for indices, _ in found])
    position = np.empty(len(dataset), dtype=np.int64)
    position[done] = np.arange(len(done))
    columns: dict[str, pa.Array] = {}
    for name in found[0][1]:
        parts = [new[name] for _, new in found]
        if not isinstance(parts[0], FlatLists):
            columns[name] = _rows_to_arrow(np.concatenate(parts)).take(pa.array(position))
            continue
        values, lengths = (np.concatenate(both) for both in zip(*parts, strict=True))
        lists = FlatLists(values, lengths)
        found_columns = {name: lists.to_arrow()} if name in schema else columns_of_sides(name, lists)
        columns |= {column: array.take(pa.array(position)) for column, array in found_columns.items()}
    return with_columns(dataset, columns, schema)


def _rows_to_arrow(values: Array) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return FlatLists(values.ravel(), np.full(len(values), values.shape[1])).to_arrow()


def _to_numpy(values: Tensor) -> Array:
    values = values.detach().cpu()
    return (values.float() if values.dtype is torch.bfloat16 else values).numpy()


def side(batch: Batch, index: int) -> Batch:
    """One side of every pair, as a batch `[B, T]`."""
    names = ("input_ids", "attention_mask", "position_ids", "response_mask")
    return {name: batch[name][:, index] for name in names}


def row_means(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over each row's valid tokens, `[B]`, of values packed in the order of `mask` `[B, T]`."""
    return padded(values, mask).sum(1) / mask.sum(1)


def padded(values: Tensor, mask: Tensor) -> Tensor:
    """Values `[N, ...]` packed in the order of `mask` `[rows, T]`, as `[rows, T, ...]` with 0 at other tokens."""
    found = values.new_zeros(*mask.shape, *values.shape[1:])
    found[mask] = values
    return found


def model_inputs(batch: Batch) -> Batch:
    return {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids", "response_mask")}
