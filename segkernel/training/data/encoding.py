"""Token ids of rows of text: preference pairs, prompts, and texts packed into blocks."""

from typing import Any, Protocol

import numpy as np
from datasets import Dataset, Features
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.columns import BLOCKS, PAIRS, PROMPTS, SIDES, subset
from segkernel.training.data.conversations import Conversations, check_chat_template, is_blank
from segkernel.training.data.formats import ARGUMENTS, finite_numbers
from segkernel.training.data.row_log import RowError, RowLog
from segkernel.training.data.rows import GIVEN, IDENTICAL, PAIR, PROMPT, TEXT, RowKind
from segkernel.training.data.tables import FlatLists, Rows, flat_lists, map_in_memory, to_table, with_columns
from segkernel.training.data.tokenization import Tokenization

__all__ = ["encode_preferences", "encode_prompts", "encode_splits", "encode_texts", "numbered_prompts"]

Row = dict[str, Any]
Columns = dict[str, list[Any]]


class Encoder(Protocol):
    """Signature shared by `encode_preferences`, `encode_prompts` and `encode_texts`."""

    def __call__(
        self, rows: Rows, tokenizer: Any, *, max_length: int, name: str, progress: bool, skip_bad_rows: bool
    ) -> Dataset: ...


def encode_splits(
    encode: Encoder,
    train_dataset: Rows,
    eval_dataset: Rows | None,
    tokenizer: PreTrainedTokenizerBase | None,
    max_length: int,
    *,
    progress: bool = False,
    skip_bad_rows: bool = False,
) -> tuple[Dataset, Dataset | None]:
    """Tokenize the training rows and the held-out rows with one of the functions below."""
    options: dict[str, Any] = {"max_length": max_length, "progress": progress, "skip_bad_rows": skip_bad_rows}
    train = encode(train_dataset, tokenizer, name="train_dataset", **options)
    if eval_dataset is None:
        return train, None
    return train, encode(eval_dataset, tokenizer, name="eval_dataset", **options)


def encode_preferences(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    max_length: int,
    name: str = "rows",
    progress: bool = False,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Tokenize preference pairs.

    A response is never cut: its end carries the answer and the EOS. Where prompt and response together exceed
    `max_length`, the prompt loses its oldest tokens; a pair with a response that leaves no room for one prompt token
    is dropped, and so is a pair with identical answers. All are counted and logged, like blank prompts and empty
    responses, which are trained on.

    Rows of messages get the ids of the tokenizer's chat template: the prompt ends with the header of the answer
    (`add_generation_prompt`), and a response is the rest of the whole conversation. In rows of strings, BOS and EOS are
    added unless the text has them (`segkernel.training.data.tokenization`).

    Args:
        rows: a `datasets.Dataset` or mappings, with `prompt`, `chosen`, `rejected`, strings or lists of messages;
            without `prompt`, the answers begin with it (`segkernel.training.data.formats`). Or already tokenized, with
            `prompt_ids`, `chosen_ids`, `rejected_ids`. `chosen_token_rewards`, `chosen_mask` and the same for
            `rejected`, where present, hold one value per token of the response; a list one shorter, written without
            the EOS in mind, has its last value repeated for it. A row without a mask trains on its whole response; if
            one row has token rewards, every row must have them.
        tokenizer: unused, and may be `None`, for rows that hold ids.
        max_length: most tokens of prompt and response together, EOS included.
        name: name of the data in messages.
        progress: whether to show a progress bar.
        skip_bad_rows: whether a row that cannot be used is counted and logged in place of an error.

    Returns:
        Data set with `prompt_ids`, `chosen_ids`, `rejected_ids`, none empty, and those columns
        (`segkernel.training.data.columns.PAIRS`).

    Raises:
        ValueError: no pairs, none that fits, a response or prompt without tokens, a wrong number of values per token,
            rows of messages and a tokenizer without a chat template. Names the row.
    """
    log = RowLog(name, skip_bad_rows=skip_bad_rows)
    texts = PAIR.to_dataset(rows, log)
    if not len(texts) and not log.rows:
        raise ValueError(f"{name}: expected at least one preference pair, got none")
    encoder = _PairEncoder(tokenizer, max_length, log, texts)
    encoded = encoder.map(texts, progress)
    if not len(encoded):
        if encoder.longest >= max_length:
            raise ValueError(
                f"max_length: expected more than {encoder.longest} tokens, the longest response of {name}, got "
                f"{max_length}: every pair was dropped"
            )
        raise ValueError(f"{name}: expected at least one pair to train on, got {log.rows} that are all dropped")
    return encoded


def encode_prompts(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    max_length: int,
    name: str = "prompts",
    progress: bool = False,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Tokenize prompts; one longer than `max_length` tokens loses its oldest, which is counted and logged.

    Args:
        rows: a `datasets.Dataset` or mappings, with `prompt` or `question`, a string or a list of messages; or already
            tokenized, with `prompt_ids`.
        tokenizer: unused, and may be `None`, for rows that hold ids.
        max_length: most tokens of a prompt: the context without the response.
        name: name of the data in messages.
        progress: whether to show a progress bar.
        skip_bad_rows: whether a row that cannot be used is counted and logged in place of an error.

    Returns:
        Data set with `prompt_ids`, none empty.

    Raises:
        ValueError: `max_length` below 1, no rows, a prompt without tokens, rows of messages and a tokenizer without a
            chat template. Names the row.
    """
    if max_length < 1:
        raise ValueError(f"max_length: expected at least 1 token, got {max_length}")
    log = RowLog(name, skip_bad_rows=skip_bad_rows)
    encoded = _PromptEncoder(tokenizer, max_length, log).map(PROMPT.to_dataset(rows, log), progress)
    if not len(encoded):
        raise ValueError(f"{name}: expected at least one prompt, got none")
    return encoded


def encode_texts(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    name: str = "texts",
    progress: bool = False,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Tokenize texts and pack them into blocks of `max_length` tokens, an EOS after each text that has none.

    Args:
        rows: a `datasets.Dataset` or mappings, with `text`, `messages`, `prompt` and `completion` (strings or
            messages), or `question` and `answer`.
        tokenizer: tokenizer with an EOS.
        max_length: tokens of a block.
        name: name of the data in messages.
        progress: whether to show a progress bar.
        skip_bad_rows: whether a row that cannot be used is counted and logged in place of an error.

    Returns:
        Data set with `input_ids`, at least two in each row.

    Raises:
        ValueError: the tokenizer has no EOS, there are no tokens, or a row cannot be used.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("tokenizer: expected an EOS token, got none")
    log = RowLog(name, skip_bad_rows=skip_bad_rows)
    texts = TEXT.to_dataset(rows, log)
    stream = np.empty(0, dtype=np.int32)
    if len(texts):
        stream = flat_lists(_TextEncoder(tokenizer, max_length, log).map(texts, progress), "input_ids").values
    # A block of one token predicts nothing.
    if len(stream) % max_length == 1:
        stream = stream[:-1]
    if not len(stream) or max_length < 2:
        raise ValueError(f"{name}: expected at least 2 tokens, got none to train on")
    lengths = np.diff(np.append(np.arange(0, len(stream), max_length), len(stream)))
    return Dataset.from_dict({"input_ids": FlatLists(stream, lengths).to_arrow()}, features=BLOCKS)


class _Encoder:
    """Function for `map_in_memory` that replaces the texts of rows by token ids.

    A subclass tokenizes strings in batches (`encode_strings`) and messages row by row (`encode_messages`), and
    completes a row of ids (`complete`).
    """

    kind: RowKind
    features: Features

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, max_length: int, log: RowLog) -> None:
        self.tokenizer, self.max_length, self.log = tokenizer, max_length, log
        self.tokens: Any = None if tokenizer is None else Tokenization(tokenizer)

    def map(self, texts: Dataset, progress: bool) -> Dataset:
        """Encode a data set and log the counts of its rows."""
        if ARGUMENTS in texts.column_names and self.tokenizer is not None:
            check_chat_template(self.tokenizer, self.log.name)
        encoded = map_in_memory(
            texts, self.encode, self.features, description=f"tokens of {self.log.name}", progress=progress
        )
        self.log.write()
        return encoded

    def encode(self, columns: Columns, indices: list[int]) -> Columns:
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        places = [self.kind.place(self.log.name, row, index) for row, index in zip(rows, indices, strict=True)]
        strings = []
        for row, place in zip(rows, places, strict=True):
            if not self.is_encoded(row):
                if self.tokens is None:
                    expected = ", ".join(repr(name) for name in self.kind.ids)
                    raise ValueError(f"{place}: expected {expected}, or a tokenizer for the strings")
                self.count_blanks(row, place)
                if row.get(ARGUMENTS) is None:
                    strings.append(row)
        if strings:
            self.encode_strings(strings)
        encoded: Columns = {column: [] for column in self.features}
        for row, place in zip(rows, places, strict=True):
            try:
                if not self.is_encoded(row):
                    self.encode_messages(row, place, Conversations(self.tokens, self.log))
                kept = self.complete(row, place)
            except RowError as error:
                self.log.bad(error)
                continue
            if kept:
                for column, values in encoded.items():
                    values.append(row[column])
        return encoded

    def is_encoded(self, row: Row) -> bool:
        return row.get(next(iter(self.features))) is not None

    def count_blanks(self, row: Row, place: str) -> None:
        raise NotImplementedError

    def encode_strings(self, rows: list[Row]) -> None:
        raise NotImplementedError

    def encode_messages(self, row: Row, place: str, conversations: Conversations) -> None:
        raise NotImplementedError

    def complete(self, row: Row, place: str) -> bool:
        """Check a row of ids, trim it and return whether it is kept.

        Raises:
            RowError: the row cannot be used.
        """
        return True

    def count_blank(self, message: str, row: Row, column: str, place: str) -> None:
        if is_blank(row[column], messages=row.get(ARGUMENTS) is not None):
            self.log.count(message, place)

    def trim_left(self, prompt_ids: list[int], room: int, place: str) -> list[int]:
        """Newest `room` tokens of a prompt; an opening BOS stays."""
        if len(prompt_ids) <= room:
            return prompt_ids
        self.log.count(f"trimmed prompts, from the left, to fit {self.max_length} tokens", place)
        start = [] if self.tokens is None else self.tokens.prefix
        if start and prompt_ids[: len(start)] == start and room > len(start):
            return [*start, *prompt_ids[len(prompt_ids) - room + len(start) :]]
        return prompt_ids[len(prompt_ids) - room :]


class _PromptEncoder(_Encoder):
    kind = PROMPT
    features = PROMPTS

    def count_blanks(self, row: Row, place: str) -> None:
        self.count_blank("blank prompts", row, "prompt", place)

    def encode_strings(self, rows: list[Row]) -> None:
        for row, ids in zip(rows, self.tokens.openings([row["prompt"] for row in rows]), strict=True):
            row["prompt_ids"] = ids

    def encode_messages(self, row: Row, place: str, conversations: Conversations) -> None:
        row["prompt_ids"] = conversations.prompt(row, place)

    def complete(self, row: Row, place: str) -> bool:
        if not row["prompt_ids"]:
            raise RowError(f"{place}: expected at least one token, got none")
        row["prompt_ids"] = self.trim_left(row["prompt_ids"], self.max_length, place)
        return True


class _TextEncoder(_Encoder):
    kind = TEXT
    features = BLOCKS

    def count_blanks(self, row: Row, place: str) -> None:
        self.count_blank("empty completions", row, "completion", place)

    def encode_strings(self, rows: list[Row]) -> None:
        prompts = [row["prompt"] for row in rows]
        starts = self.tokens.openings(prompts)
        ends = self.tokens.responses([row["completion"] for row in rows], prompts)
        for row, start, end in zip(rows, starts, ends, strict=True):
            has_bos = not row["prompt"] and end[:1] == start
            row["input_ids"] = end if has_bos else [*start, *end]

    def encode_messages(self, row: Row, place: str, conversations: Conversations) -> None:
        row["input_ids"] = conversations.texts(row, place)


class _PairEncoder(_Encoder):
    kind = PAIR

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None, max_length: int, log: RowLog, texts: Dataset) -> None:
        super().__init__(tokenizer, max_length, log)
        table = to_table(texts)
        self.given = [name for name in texts.column_names if name in GIVEN and table[name].null_count < len(texts)]
        self.features = subset(PAIRS, (*PAIR.ids, *self.given))
        self.longest = 0

    def count_blanks(self, row: Row, place: str) -> None:
        self.count_blank("blank prompts", row, "prompt", place)
        for side in SIDES:
            self.count_blank(f"empty {side} responses", row, side, place)

    def encode_strings(self, rows: list[Row]) -> None:
        prompts = [row["prompt"] for row in rows]
        for row, ids in zip(rows, self.tokens.openings(prompts), strict=True):
            # The first response token needs a token to be predicted from.
            row["prompt_ids"] = ids or self.tokens.end
        for side in SIDES:
            for row, ids in zip(rows, self.tokens.responses([row[side] for row in rows], prompts), strict=True):
                row[f"{side}_ids"] = ids

    def encode_messages(self, row: Row, place: str, conversations: Conversations) -> None:
        row["prompt_ids"] = conversations.prompt(row, place)
        for side in SIDES:
            row[f"{side}_ids"] = conversations.response(row, side, row["prompt_ids"], place)

    def complete(self, row: Row, place: str) -> bool:
        if not row["prompt_ids"]:
            raise RowError(f"{place}: the prompt has no tokens, so nothing predicts the first token of a response")
        for side in SIDES:
            if not row.get(f"{side}_ids"):
                raise RowError(f"{place}: {side}: expected at least one token, got none")
        for column in self.given:
            row[column] = _one_per_token(row, column, place)
        if row["chosen_ids"] == row["rejected_ids"]:
            self.log.count(IDENTICAL, place)
            return False
        response = max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        self.longest = max(self.longest, response)
        room = self.max_length - response
        if room < 1:
            self.log.count(f"dropped pairs with a response too long for max_length={self.max_length}", place)
            return False
        row["prompt_ids"] = self.trim_left(row["prompt_ids"], room, place)
        return True


def _one_per_token(row: Row, name: str, place: str) -> list[Any] | None:
    """Values of a column per token of its response; None for a row without a mask."""
    values: list[Any] | None = row[name]
    tokens = len(row[f"{name.partition('_')[0]}_ids"])
    if name.endswith("token_rewards"):
        if values is None:
            raise RowError(f"{place}: {name}: expected one value per token, as in other rows, got none")
        finite_numbers(row, name, place)
    if values and len(values) == tokens - 1:
        return [*values, values[-1]]
    if values is not None and len(values) != tokens:
        raise RowError(
            f"{place}: {name}: expected {tokens} values, one per token (or one fewer: without the EOS), "
            f"got {len(values)}"
        )
    return values


def numbered_prompts(pairs: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Trim prompts to `max_length` tokens, and number the pairs: part of the key of their random numbers."""
    prompts = encode_prompts(pairs, tokenizer, max_length=max_length, name="train_dataset")
    columns = {"prompt_ids": to_table(prompts)["prompt_ids"], "row": np.arange(len(pairs))}
    return with_columns(pairs, columns, PAIRS)
