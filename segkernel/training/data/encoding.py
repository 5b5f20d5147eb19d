"""Tokenization of rows of text.

A prompt and its response are tokenized separately and joined as ids, so the boundary between them is exact whatever
the tokenizer would merge across it. A response ends with the tokenizer's EOS.
"""

import logging
from typing import Any, Protocol

import numpy as np
from datasets import Dataset, Features
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.columns import (
    BLOCKS,
    COMPLETION_TEXTS,
    PAIR_TEXTS,
    PAIRS,
    PROMPT_TEXTS,
    PROMPTS,
    SIDES,
    subset,
)
from segkernel.training.data.tables import (
    FlatLists,
    Rows,
    flat_lists,
    map_in_memory,
    to_dataset,
    to_table,
    with_columns,
)

__all__ = ["encode_preferences", "encode_prompts", "encode_splits", "encode_texts", "numbered_prompts"]

logger = logging.getLogger(__name__)

# Columns of values per token that a data set may bring along.
GIVEN = tuple(f"{side}_{name}" for side in SIDES for name in ("mask", "token_rewards"))

Columns = dict[str, list[Any]]


class Encoder(Protocol):
    """Signature shared by `encode_preferences`, `encode_prompts` and `encode_texts`."""

    def __call__(self, rows: Rows, tokenizer: Any, *, max_length: int, name: str, progress: bool) -> Dataset: ...


def encode_splits(
    encode: Encoder,
    train_dataset: Rows,
    eval_dataset: Rows | None,
    tokenizer: PreTrainedTokenizerBase | None,
    max_length: int,
    *,
    progress: bool = False,
) -> tuple[Dataset, Dataset | None]:
    """Tokenize the training rows and the held-out rows with one of the functions below."""
    train = encode(train_dataset, tokenizer, max_length=max_length, name="train_dataset", progress=progress)
    if eval_dataset is None:
        return train, None
    return train, encode(eval_dataset, tokenizer, max_length=max_length, name="eval_dataset", progress=progress)


def encode_preferences(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    max_length: int,
    name: str = "rows",
    progress: bool = False,
) -> Dataset:
    """Tokenize preference pairs.

    A response is never cut: its end carries the answer and the EOS. Where prompt and response together exceed
    `max_length`, the prompt loses its oldest tokens; a pair with a response that leaves no room for one prompt token
    is dropped. Both are counted and logged.

    Args:
        rows: a `datasets.Dataset` or mappings, with the strings `prompt`, `chosen`, `rejected`; or already tokenized,
            with `prompt_ids`, `chosen_ids`, `rejected_ids`. `chosen_token_rewards`, `chosen_mask` and the same for
            `rejected`, where present, hold one value per token of the response; a list one shorter, written without
            the EOS in mind, has its last value repeated for it. A row may lack them.
        tokenizer: unused, and may be `None`, for rows that hold ids.
        max_length: most tokens of prompt and response together, EOS included.
        name: name of the data in messages.
        progress: whether to show a progress bar.

    Returns:
        Data set with `prompt_ids`, `chosen_ids`, `rejected_ids`, none empty, and those columns
        (`segkernel.training.data.columns.PAIRS`).

    Raises:
        ValueError: no pairs, none that fits, a pair with identical answers, or a response or prompt
            without tokens.
    """
    texts = to_dataset(rows, Features(PAIR_TEXTS | subset(PAIRS, (*_PairEncoder.id_columns, *GIVEN))), name)
    if not len(texts):
        raise ValueError(f"{name}: expected at least one preference pair, got none")
    given = [column for column in texts.column_names if column in GIVEN]
    encoder = _PairEncoder(tokenizer, max_length, name)
    features = subset(PAIRS, (*encoder.id_columns, *given))
    encoded = map_in_memory(texts, encoder.encode, features, description=f"tokens of {name}", progress=progress)
    if not len(encoded):
        raise ValueError(
            f"max_length: expected more than {encoder.longest} tokens, the longest response of {name}, got "
            f"{max_length}: every pair was dropped"
        )
    if dropped := len(texts) - len(encoded):
        logger.warning(
            "%s: dropped %d of %d pairs: a response exceeds max_length=%d", name, dropped, len(texts), max_length
        )
    if encoder.trimmed:
        logger.warning("%s: trimmed %d prompts from the left to fit max_length=%d", name, encoder.trimmed, max_length)
    return encoded


def encode_prompts(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    max_length: int,
    name: str = "prompts",
    progress: bool = False,
) -> Dataset:
    """Tokenize prompts; one longer than `max_length` tokens loses its oldest, which is counted and logged.

    Args:
        rows: a `datasets.Dataset` or mappings, with a `prompt` string; or already tokenized, with `prompt_ids`.
        tokenizer: unused, and may be `None`, for rows that hold ids.
        max_length: most tokens of a prompt: the context without the response.
        name: name of the data in messages.
        progress: whether to show a progress bar.

    Returns:
        Data set with `prompt_ids`, none empty.

    Raises:
        ValueError: `max_length` below 1, no rows, or a prompt without tokens.
    """
    if max_length < 1:
        raise ValueError(f"max_length: expected at least 1 token, got {max_length}")
    texts = to_dataset(rows, Features(PROMPT_TEXTS | PROMPTS), name)
    if not len(texts):
        raise ValueError(f"{name}: expected at least one prompt, got none")
    encoder = _PromptEncoder(tokenizer, max_length, name)
    encoded = map_in_memory(texts, encoder.encode, PROMPTS, description=f"tokens of {name}", progress=progress)
    if encoder.trimmed:
        logger.warning("%s: trimmed %d prompts from the left to %d tokens", name, encoder.trimmed, max_length)
    return encoded


def encode_texts(
    rows: Rows, tokenizer: PreTrainedTokenizerBase, *, max_length: int, name: str = "texts", progress: bool = False
) -> Dataset:
    """Tokenize texts and pack them into blocks of `max_length` tokens, an EOS after each text.

    Returns:
        Data set with `input_ids`, at least two in each row.

    Raises:
        ValueError: the tokenizer has no EOS, or there are no tokens.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("tokenizer: expected an EOS token, got none")
    prefix, end = _prefix_ids(tokenizer), [tokenizer.eos_token_id]

    def encode(columns: Columns, indices: list[int]) -> Columns:
        both = zip(*(_token_ids(columns[column], tokenizer) for column in ("prompt", "completion")), strict=True)
        return {"input_ids": [[*prefix, *prompt, *completion, *end] for prompt, completion in both]}

    texts = to_dataset(rows, COMPLETION_TEXTS, name)
    stream = np.empty(0, dtype=np.int32)
    if len(texts):
        encoded = map_in_memory(texts, encode, BLOCKS, description=f"tokens of {name}", progress=progress)
        stream = flat_lists(encoded, "input_ids").values
    # A block of one token predicts nothing.
    if len(stream) % max_length == 1:
        stream = stream[:-1]
    if not len(stream) or max_length < 2:
        raise ValueError(f"{name}: expected at least 2 tokens, got none to train on")
    lengths = np.diff(np.append(np.arange(0, len(stream), max_length), len(stream)))
    return Dataset.from_dict({"input_ids": FlatLists(stream, lengths).to_arrow()}, features=BLOCKS)


class _Encoder:
    """Function for `map_in_memory`, with the counts of what it trimmed."""

    noun: str
    text_columns: tuple[str, ...]
    id_columns: tuple[str, ...]

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, max_length: int, name: str) -> None:
        self.tokenizer, self.max_length, self.name = tokenizer, max_length, name
        self.prefix = [] if tokenizer is None else _prefix_ids(tokenizer)
        end = None if tokenizer is None else tokenizer.eos_token_id
        self.end = [] if end is None else [end]
        self.empty_prompt: list[int] = []
        self.trimmed = 0

    def rows_of_ids(self, columns: Columns, indices: list[int]) -> list[tuple[str, dict[str, Any]]]:
        """Rows of a batch, each with its place in messages; strings are replaced by token ids."""
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        places = [self.place(row, index) for row, index in zip(rows, indices, strict=True)]
        texts = []
        for row, place in zip(rows, places, strict=True):
            if row.get("prompt_ids") is None:
                if self.tokenizer is None:
                    expected = ", ".join(repr(name) for name in self.id_columns)
                    raise ValueError(f"{place}: expected {expected}, or a tokenizer for the strings")
                _require(row, self.text_columns, place)
                texts.append(row)
            else:
                _require(row, self.id_columns, place)
        for text_column, id_column in zip(self.text_columns, self.id_columns, strict=True):
            ids_of_rows = _token_ids([row[text_column] for row in texts], self.tokenizer)
            for row, ids in zip(texts, ids_of_rows, strict=True):
                row[id_column] = [*ids, *self.end] if text_column in SIDES else [*self.prefix, *ids]
        for row in texts:
            row["prompt_ids"] = row["prompt_ids"] or self.empty_prompt
        return list(zip(places, rows, strict=True))

    def place(self, row: dict[str, Any], index: int) -> str:
        line = row.get("line")
        return f"{self.name}[{index}]" if line is None else f"{self.name}: the {self.noun} of line {line}"

    def trim_left(self, prompt_ids: list[int], room: int) -> list[int]:
        """Newest `room` tokens of a prompt; an opening BOS stays."""
        if len(prompt_ids) <= room:
            return prompt_ids
        self.trimmed += 1
        start = self.prefix
        if start and prompt_ids[: len(start)] == start and room > len(start):
            return [*start, *prompt_ids[len(prompt_ids) - room + len(start) :]]
        return prompt_ids[len(prompt_ids) - room :]


class _PromptEncoder(_Encoder):
    noun = "prompt"
    text_columns = ("prompt",)
    id_columns = ("prompt_ids",)

    def encode(self, columns: Columns, indices: list[int]) -> Columns:
        encoded = []
        for place, row in self.rows_of_ids(columns, indices):
            if not row["prompt_ids"]:
                raise ValueError(f"{place}: expected at least one token, got none")
            encoded.append(self.trim_left(row["prompt_ids"], self.max_length))
        return {"prompt_ids": encoded}


class _PairEncoder(_Encoder):
    noun = "pair"
    text_columns = ("prompt", *SIDES)
    id_columns = ("prompt_ids", "chosen_ids", "rejected_ids")

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, max_length: int, name: str) -> None:
        super().__init__(tokenizer, max_length, name)
        self.empty_prompt = self.end  # the first response token needs a token to be predicted from
        self.longest = 0

    def encode(self, columns: Columns, indices: list[int]) -> Columns:
        given = [column for column in columns if column in GIVEN]
        encoded: Columns = {column: [] for column in (*self.id_columns, *given)}
        for place, row in self.rows_of_ids(columns, indices):
            self.check(row, place)
            response = max(len(row["chosen_ids"]), len(row["rejected_ids"]))
            self.longest = max(self.longest, response)
            room = self.max_length - response
            if room >= 1:
                row["prompt_ids"] = self.trim_left(row["prompt_ids"], room)
                for column, values in encoded.items():
                    values.append(row[column])
        return encoded

    def check(self, row: dict[str, Any], place: str) -> None:
        """Refuse a pair that cannot be trained on; complete its values per token."""
        if not row["prompt_ids"]:
            raise ValueError(f"{place}: the prompt has no tokens, so nothing predicts the first token of a response")
        for side in SIDES:
            if not row[f"{side}_ids"]:
                raise ValueError(f"{place}: {side}: expected at least one token, got none")
            for column in GIVEN:
                if column.startswith(side) and row.get(column) is not None:
                    row[column] = _one_per_token(row[column], len(row[f"{side}_ids"]), column, place)
        if row["chosen_ids"] == row["rejected_ids"]:
            raise ValueError(f"{place}: 'chosen' and 'rejected' are identical, so the pair prefers nothing")


def _require(row: dict[str, Any], columns: tuple[str, ...], place: str) -> None:
    for column in columns:
        if row.get(column) is None:
            present = sorted(name for name, value in row.items() if value is not None)
            raise ValueError(f"{place}: expected the key {column!r}, got {present}")


def _one_per_token(values: list[Any], tokens: int, name: str, place: str) -> list[Any]:
    if values and len(values) == tokens - 1:
        return [*values, values[-1]]
    if len(values) != tokens:
        raise ValueError(
            f"{place}: {name}: expected {tokens} values, one per token (or one fewer: without the EOS), "
            f"got {len(values)}"
        )
    return values


def _token_ids(texts: list[str], tokenizer: PreTrainedTokenizerBase | None) -> list[list[int]]:
    if not texts or tokenizer is None:
        return []
    return list(tokenizer(texts, add_special_tokens=False)["input_ids"])


def _prefix_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """`[BOS]` if this tokenizer opens a text with it, else nothing."""
    opens = tokenizer.bos_token_id is not None and list(tokenizer("")["input_ids"])[:1] == [tokenizer.bos_token_id]
    return [tokenizer.bos_token_id] if opens else []


def numbered_prompts(pairs: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Trim prompts to `max_length` tokens, and number the pairs: part of the key of their random numbers."""
    prompts = encode_prompts(pairs, tokenizer, max_length=max_length, name="train_dataset")
    columns = {"prompt_ids": to_table(prompts)["prompt_ids"], "row": np.arange(len(pairs))}
    return with_columns(pairs, columns, PAIRS)
