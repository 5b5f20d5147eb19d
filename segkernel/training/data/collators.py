"""From encoded rows to batches and back: what is padding, and where each token's columns go."""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.readers import SIDES

__all__ = [
    "PreferenceCollator",
    "ResponseCollator",
    "TextCollator",
    "columns_of_sides",
    "pad_token_id",
    "values_of_responses",
]

# Columns with one value per response token (`mask`; of a pair `chosen_mask`, ...), and what fills the other positions.
PER_TOKEN = {"mask": False, "token_rewards": 0.0, "segment_ids": -1}
# Columns with one value per sampled response.
PER_RESPONSE = ("reward", "samples_reward", "segments", "mask_agreement")
# Columns with one value per side, `[chosen, rejected]`; `row` has one per pair.
PER_PAIR = ("segments", "mask_agreement", "ref_logprobs", "ref_response_logprobs", "row")

Collator = TypeVar("Collator", bound="Padding")


def pad_token_id(tokenizer: PreTrainedTokenizerBase | None) -> int:
    """The id to fill padding with. Padding is masked everywhere, so a tokenizer without one costs nothing."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id) if tokenizer is not None else ():
        if token_id is not None:
            return int(token_id)
    return 0


@dataclass
class TextCollator:
    """Pads blocks of ids on the right: `input_ids` and `attention_mask`, `[B, T]` int64."""

    pad_token_id: int = 0

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
        length = max(len(row["input_ids"]) for row in rows)
        input_ids = torch.full((len(rows), length), self.pad_token_id)
        attention_mask = torch.zeros_like(input_ids)
        for index, row in enumerate(rows):
            count = len(row["input_ids"])
            input_ids[index, :count] = torch.tensor(row["input_ids"])
            attention_mask[index, :count] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}


@dataclass
class Padding:
    """What fills up sequences of different lengths, and on which side."""

    pad_token_id: int = 0
    padding_side: str = "right"

    @classmethod
    def of(cls: type[Collator], tokenizer: PreTrainedTokenizerBase | None) -> Collator:
        """As this tokenizer pads; without one, on the right."""
        return cls(pad_token_id(tokenizer), "right" if tokenizer is None else tokenizer.padding_side)


@dataclass
class ResponseCollator(Padding):
    """Stacks rows of `prompt_ids` and `response_ids`, one sequence each.

    Gives `[B, T]`: `input_ids`, `attention_mask`, `position_ids` (int64; counted over real tokens, so that padding on
    either side gives a token the same position), `response_mask` (bool), `loss_mask` (bool; the rows' `mask`, one value
    per response token, or all response tokens where the rows have none) and, where the rows have them, `token_rewards`
    (float32) and `segment_ids` (int64; -1 outside of responses); and `[B]` for every column with one value per
    response.
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        length = max(len(row["prompt_ids"]) + len(row["response_ids"]) for row in rows)
        shape = (len(rows), length)
        input_ids = torch.full(shape, self.pad_token_id)
        attention_mask = torch.zeros(shape, dtype=torch.int64)
        response_mask = torch.zeros(shape, dtype=torch.bool)
        per_token = {name: torch.full(shape, fill) for name, fill in PER_TOKEN.items() if name in rows[0]}
        for index, row in enumerate(rows):
            ids = [*row["prompt_ids"], *row["response_ids"]]
            start = length - len(ids) if self.padding_side == "left" else 0
            response = slice(start + len(row["prompt_ids"]), start + len(ids))
            input_ids[index, start : start + len(ids)] = torch.tensor(ids)
            attention_mask[index, start : start + len(ids)] = 1
            response_mask[index, response] = True
            for name, values in per_token.items():
                values[index, response] = torch.tensor(row[name], dtype=values.dtype)
        batch = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": (attention_mask.cumsum(-1) - 1).clamp(min=0),
            "response_mask": response_mask,
            "loss_mask": per_token.pop("mask", response_mask),
            **per_token,
        }
        return batch | {name: torch.tensor([row[name] for row in rows]) for name in PER_RESPONSE if name in rows[0]}


@dataclass
class PreferenceCollator(Padding):
    """Stacks encoded pairs; a pair is one row of the batch, its chosen side 0, its rejected side 1.

    Gives what `ResponseCollator` gives of the two responses, `[B, 2, T]`, and `[B, 2]` for every column with one value
    per side (`row`, the pair's number: `[B]`).
    """

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        responses = [
            {
                "prompt_ids": row["prompt_ids"],
                "response_ids": row[f"{side}_ids"],
                **{name: row[f"{side}_{name}"] for name in PER_TOKEN if f"{side}_{name}" in row},
            }
            for row in rows
            for side in SIDES
        ]
        batch = ResponseCollator(self.pad_token_id, self.padding_side)(responses)
        batch = {name: values.unflatten(0, (len(rows), 2)) for name, values in batch.items()}
        return batch | {name: torch.tensor([row[name] for row in rows]) for name in PER_PAIR if name in rows[0]}


def values_of_responses(values: Tensor, response_mask: Tensor) -> list[list[Any]]:
    """The values of every response's tokens, out of a batch `[B, T]`.

    Example:
        >>> values_of_responses(torch.tensor([[0, 7, 8], [0, 0, 9]]), torch.tensor([[0, 1, 1], [0, 0, 1]]).bool())
        [[7, 8], [9]]
    """
    return [row[valid].tolist() for row, valid in zip(values.cpu(), response_mask.cpu(), strict=True)]


def columns_of_sides(name: str, values: Tensor, response_mask: Tensor) -> list[dict[str, Any]]:
    """The columns `chosen_<name>` and `rejected_<name>` of every pair, out of a batch's values `[2 * B, T]`.

    `response_mask` is the batch's, `[B, 2, T]`.
    """
    found = values_of_responses(values, response_mask.flatten(0, 1))
    return [
        {f"{side}_{name}": of_side for side, of_side in zip(SIDES, both, strict=True)}
        for both in zip(found[::2], found[1::2], strict=True)
    ]
