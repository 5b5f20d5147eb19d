"""Collators: encoded rows to padded batches."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.columns import SIDES

__all__ = ["PreferenceCollator", "ResponseCollator", "TextCollator", "pad_token_id"]

Row = Mapping[str, Any]
Array = npt.NDArray[Any]

# Columns with one value per response token: dtype in a batch, and the value at all other positions.
PER_TOKEN: dict[str, tuple[type[np.generic], Any]] = {
    "mask": (np.bool_, False),
    "token_rewards": (np.float32, 0.0),
    "token_weights": (np.float32, 0.0),
    "ref_token_logprobs": (np.float32, 0.0),
    "segment_ids": (np.int64, -1),
}
# Columns with one value per sampled response, by dtype in a batch.
PER_RESPONSE: dict[str, type[np.generic]] = {
    "reward": np.float32,
    "samples_reward": np.float32,
    "segments": np.int64,
    "mask_agreement": np.float32,
}
# Columns of pairs: `[chosen, rejected]`, or one value.
PER_PAIR: dict[str, type[np.generic]] = {
    "segments": np.int64,
    "mask_agreement": np.float32,
    "ref_logprobs": np.float32,
    "ref_response_logprobs": np.float32,
    "row": np.int64,
}

Collator = TypeVar("Collator", bound="Padding")


def pad_token_id(tokenizer: PreTrainedTokenizerBase | None) -> int:
    """Token id of padding. Padding is masked everywhere, so a tokenizer without one does no harm: 0 serves as well."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id) if tokenizer is not None else ():
        if token_id is not None:
            return int(token_id)
    return 0


@dataclass
class TextCollator:
    """Pads blocks of ids on the right: `input_ids` and `attention_mask`, `[B, T]` int64."""

    pad_token_id: int = 0

    def __call__(self, rows: Iterable[Row]) -> dict[str, Tensor]:
        blocks = [row["input_ids"] for row in rows]
        input_ids = np.full((len(blocks), max(map(len, blocks))), self.pad_token_id)
        attention_mask = np.zeros_like(input_ids)
        for index, block in enumerate(blocks):
            input_ids[index, : len(block)] = block
            attention_mask[index, : len(block)] = 1
        return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}


@dataclass
class Padding:
    """Padding of sequences of different lengths: its token and its side."""

    pad_token_id: int = 0
    padding_side: str = "right"

    @classmethod
    def of(cls: type[Collator], tokenizer: PreTrainedTokenizerBase | None) -> Collator:
        """Padding of this tokenizer; on the right without one."""
        return cls(pad_token_id(tokenizer), "right" if tokenizer is None else tokenizer.padding_side)


@dataclass
class ResponseCollator(Padding):
    """Stacks rows of `prompt_ids` and `response_ids`, one sequence each.

    Returns `[B, T]`: `input_ids`, `attention_mask`, `position_ids` (int64; counted over real tokens, so that padding on
    either side gives a token the same position), `response_mask` (bool), `loss_mask` (bool; a row's `mask`, one value
    per response token, or all of its response tokens if it has none) and, if the rows have them, `token_rewards`,
    `token_weights`, `ref_token_logprobs` (float32) and `segment_ids` (int64; -1 outside of responses); and `[B]` for
    every column with one value per response.

    Raises:
        ValueError: a column other than `mask` that only some of the rows have.
    """

    def __call__(self, rows: Iterable[Row]) -> dict[str, Tensor]:
        rows = list(rows)
        sequences = [np.concatenate([row["prompt_ids"], row["response_ids"]]) for row in rows]
        shape = (len(rows), max(map(len, sequences)))
        input_ids = np.full(shape, self.pad_token_id)
        attention_mask = np.zeros(shape, dtype=np.int64)
        response_mask = np.zeros(shape, dtype=np.bool_)
        per_token = {
            name: np.full(shape, fill, dtype)
            for name, (dtype, fill) in PER_TOKEN.items()
            if name != "mask" and _have(rows, name)
        }
        loss_mask = np.zeros(shape, dtype=np.bool_)
        for index, (row, ids) in enumerate(zip(rows, sequences, strict=True)):
            start = shape[1] - len(ids) if self.padding_side == "left" else 0
            response = slice(start + len(row["prompt_ids"]), start + len(ids))
            input_ids[index, start : start + len(ids)] = ids
            attention_mask[index, start : start + len(ids)] = 1
            response_mask[index, response] = True
            mask = row.get("mask")
            loss_mask[index, response] = True if mask is None else mask
            for name, values in per_token.items():
                values[index, response] = row[name]
        batch: dict[str, Array] = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": (attention_mask.cumsum(-1) - 1).clip(min=0),
            "response_mask": response_mask,
            "loss_mask": loss_mask,
            **per_token,
            **_stacked(rows, PER_RESPONSE),
        }
        return {name: torch.from_numpy(values) for name, values in batch.items()}


@dataclass
class PreferenceCollator(Padding):
    """Stacks encoded pairs; a pair is one row of the batch, its chosen side 0, its rejected side 1.

    Returns the entries of `ResponseCollator` for the two responses, `[B, 2, T]`, and `[B, 2]` for every column with one
    value per side (`row`, the pair's number: `[B]`).

    Raises:
        ValueError: a column other than the masks that only some of the rows have.
    """

    def __call__(self, rows: Iterable[Row]) -> dict[str, Tensor]:
        rows = list(rows)
        responses = [
            {
                "prompt_ids": row["prompt_ids"],
                "response_ids": row[f"{side}_ids"],
                **{name: row.get(f"{side}_{name}") for name in PER_TOKEN},
            }
            for row in rows
            for side in SIDES
        ]
        batch = ResponseCollator(self.pad_token_id, self.padding_side)(responses)
        batch = {name: values.unflatten(0, (len(rows), 2)) for name, values in batch.items()}
        return batch | {name: torch.from_numpy(values) for name, values in _stacked(rows, PER_PAIR).items()}


def collate_prompts(rows: Iterable[Row]) -> dict[str, Any]:
    """Batch of prompts to answer, lists of token ids."""
    return {"prompts": [row["prompt_ids"] for row in rows]}


def _have(rows: list[Row], name: str) -> bool:
    """Whether the rows have a column.

    Raises:
        ValueError: some have it and some do not.
    """
    count = sum(row.get(name) is not None for row in rows)
    if 0 < count < len(rows):
        raise ValueError(f"{name}: expected a value in every row of a batch, got {count} in {len(rows)} rows")
    return count > 0


def _stacked(rows: list[Row], columns: Mapping[str, type[np.generic]]) -> dict[str, Array]:
    return {name: np.array([row[name] for row in rows], dtype) for name, dtype in columns.items() if _have(rows, name)}
