"""Encoders of batches of rows: texts to token ids, for each kind of row."""

from abc import ABC, abstractmethod
from typing import Any

from datasets import Dataset, Features
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.columns import BLOCKS, PAIRS, PROMPTS, SIDES, subset
from segkernel.training.data.conversations import Conversations, check_chat_template, is_blank
from segkernel.training.data.formats import ARGUMENTS, finite_numbers
from segkernel.training.data.row_log import RowError, RowLog
from segkernel.training.data.rows import GIVEN, IDENTICAL, PAIR, PROMPT, TEXT, RowKind
from segkernel.training.data.tables import map_in_memory, to_table
from segkernel.training.data.tokenization import Tokenization

Row = dict[str, Any]
Columns = dict[str, list[Any]]


class RowEncoder(ABC):
    """Base class of the encoders: replaces the texts of rows by token ids, and counts unusual rows in a log.

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

    @abstractmethod
    def count_blanks(self, row: Row, place: str) -> None: ...

    @abstractmethod
    def encode_strings(self, rows: list[Row]) -> None: ...

    @abstractmethod
    def encode_messages(self, row: Row, place: str, conversations: Conversations) -> None: ...

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


class PromptEncoder(RowEncoder):
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


class TextEncoder(RowEncoder):
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


class PairEncoder(RowEncoder):
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
