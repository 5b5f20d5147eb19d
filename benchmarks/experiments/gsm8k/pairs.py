"""Preference pairs of solutions to one problem: read from a file, split by problem, and encoded."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.columns import SIDES
from segkernel.training.data.encoding import encode_preferences
from segkernel.training.data.readers import read_preferences, split_by_prompt
from segkernel.training.data.tables import to_table

TEXTS = ("prompt", *SIDES)
IDS = tuple(f"{name}_ids" for name in TEXTS)
FEWEST_PROBLEMS = 10
NO_LIMIT = 2**31 - 1  # a pair that is too long is dropped whole, its prompt is not cut

Row = dict[str, Any]


class Split(NamedTuple):
    """Rows of token ids, each in random order, and the share of pairs that are too long."""

    training: list[Row]
    held_out: list[Row]
    too_long: float


def read_pairs(path: Path) -> list[Row]:
    """Rows with `prompt`, `chosen` and `rejected`, all strings, of a file of preference pairs.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, a row lacks one of them, or there are fewer than ten problems.
    """
    if not path.exists():  # `read_preferences` would take it for a name on the hub
        raise FileNotFoundError(f"expected a file of preference pairs, got {path}, which does not exist")
    pairs = read_preferences(path)
    if "chat_template_arguments" in pairs.column_names:
        raise ValueError(f"{path}: expected prompts and answers that are strings, got messages")
    problems = len(set(pairs["prompt"]))
    if problems < FEWEST_PROBLEMS:
        raise ValueError(f"{path}: expected pairs for at least {FEWEST_PROBLEMS} problems, got {problems}")
    rows: list[Row] = to_table(pairs.select_columns(list(TEXTS))).to_pylist()
    return rows


def split_pairs(
    rows: Iterable[Mapping[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    held_out: float,
    max_length: int,
    seed: int,
) -> Split:
    """Split pairs so that all pairs of a problem are on the same side, and encode those that are not too long."""
    texts = Dataset.from_list([dict(row) for row in rows])
    sides: list[list[Row]] = []
    for number, side in enumerate(split_by_prompt(texts, held_out, seed=seed)):
        fitting = [row for row in encoded(side, tokenizer) if longest(row) <= max_length]
        random.Random(2 * seed + number).shuffle(fitting)
        sides.append(fitting)
    return Split(sides[0], sides[1], too_long=1 - sum(map(len, sides)) / len(texts))


def encoded(texts: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """Rows of token ids in the tokenizer's chat template: the problem is the user's message, a solution the answer."""
    conversations = [
        {
            "prompt": [{"role": "user", "content": text["prompt"]}],
            **{side: [{"role": "assistant", "content": text[side]}] for side in SIDES},
        }
        for text in texts
    ]
    dataset = encode_preferences(conversations, tokenizer, max_length=NO_LIMIT)
    rows: list[Row] = to_table(dataset.select_columns(list(IDS))).to_pylist()
    return rows


def longest(row: Mapping[str, Sequence[int]]) -> int:
    """Number of tokens of the prompt with the longer response.

    Example:
        >>> longest({"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5, 6]})
        5
    """
    return len(row["prompt_ids"]) + max(len(row[f"{side}_ids"]) for side in SIDES)
