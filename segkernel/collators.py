"""From encoded rows to batches: what is padding, and where each token's columns go."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segkernel.data import SIDES

__all__ = ["PreferenceCollator", "ResponseCollator", "TextCollator"]

# Columns with one value per response token (`chosen_mask`, ...), and what fills the other positions.
PER_TOKEN = {"mask": False, "token_rewards": 0.0, "segment_ids": -1}
# Columns with one value per sampled response.
PER_RESPONSE = ("reward", "samples_reward", "segments", "mask_agreement")
# Columns with one value per side, `[chosen, rejected]`; `row` has one per pair.
PER_PAIR = ("segments", "mask_agreement", "ref_logprobs", "ref_response_logprobs", "row")


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
class PreferenceCollator:
    """Stacks encoded pairs; a pair is one row of the batch, its chosen side 0, its rejected side 1.

    Gives `[B, 2, T]`: `input_ids`, `attention_mask`, `position_ids` (int64; counted over real tokens, so that
    padding on either side gives a token the same position), `response_mask` (bool), and for every per-token column
    of the rows `loss_mask` (bool; all response tokens where the rows have none), `token_rewards` (float32) or
    `segment_ids` (int64; -1 outside of responses); and `[B, 2]` for every column with one value per side (`row`, the
    pair's number: `[B]`).
    """

    pad_token_id: int = 0
    padding_side: str = "right"

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        sides = [(index, number, side) for index in range(len(rows)) for number, side in enumerate(SIDES)]
        length = max(len(rows[index]["prompt_ids"]) + len(rows[index][f"{side}_ids"]) for index, _, side in sides)
        shape = (len(rows), 2, length)
        input_ids = torch.full(shape, self.pad_token_id)
        attention_mask = torch.zeros(shape, dtype=torch.int64)
        response_mask = torch.zeros(shape, dtype=torch.bool)
        per_token = {name: torch.full(shape, fill) for name, fill in PER_TOKEN.items() if f"chosen_{name}" in rows[0]}
        for index, number, side in sides:
            row = rows[index]
            ids = [*row["prompt_ids"], *row[f"{side}_ids"]]
            start = length - len(ids) if self.padding_side == "left" else 0
            response = slice(start + len(row["prompt_ids"]), start + len(ids))
            input_ids[index, number, start : start + len(ids)] = torch.tensor(ids)
            attention_mask[index, number, start : start + len(ids)] = 1
            response_mask[index, number, response] = True
            for name, values in per_token.items():
                values[index, number, response] = torch.tensor(row[f"{side}_{name}"], dtype=values.dtype)
        batch = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": (attention_mask.cumsum(-1) - 1).clamp(min=0),
            "response_mask": response_mask,
            "loss_mask": per_token.pop("mask", response_mask),
            **per_token,
        }
        batch |= {name: torch.tensor([row[name] for row in rows]) for name in PER_PAIR if name in rows[0]}
        return batch


@dataclass
class ResponseCollator:
    """Stacks rows of `prompt_ids` and `response_ids`, one sequence each.

    Gives `[B, T]`: `input_ids`, `attention_mask`, `position_ids` (int64; counted over real tokens), `response_mask`
    (bool), `loss_mask` (bool; the rows' `mask`, one value per response token, or all response tokens where the rows
    have none) and, where the rows have it, `token_rewards` (float32); and `[B]` for every column with one value per
    response.
    """

    pad_token_id: int = 0
    padding_side: str = "right"

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
