"""Kinds of rows: pairs, prompts and texts, each with its format, its schema and the columns that are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, Features

from segkernel.training.data.columns import COMPLETION_TEXTS, PAIR_TEXTS, PAIRS, PROMPT_TEXTS, PROMPTS, SIDES, subset
from segkernel.training.data.formats import (
    ARGUMENTS,
    TEMPLATE_ARGUMENTS,
    completion_row,
    preference_row,
    prompt_row,
)
from segkernel.training.data.row_log import RowError, RowLog
from segkernel.training.data.tables import Rows, to_dataset, to_table

# Columns of values per token that pairs may bring along.
GIVEN = tuple(f"{side}_{name}" for side in SIDES for name in ("mask", "token_rewards"))
IDENTICAL = "dropped pairs with identical answers"

PLACES = ("line", "record")


@dataclass(frozen=True)
class RowKind:
    """Kind of the rows of a data set.

    Args:
        noun: name of a row in messages.
        format: function from a row as read, and its name in messages, to a row of `schema`.
        schema: columns of the rows in memory.
        read: columns that `format` reads.
        ids: columns of rows that are tokenized already.
    """

    noun: str
    format: Callable[[Mapping[str, Any], str], dict[str, Any]]
    schema: Features
    read: frozenset[str]
    ids: tuple[str, ...] = ()

    def place(self, name: str, row: Mapping[str, Any], index: int) -> str:
        """Name of a row in messages."""
        for column, unit in zip(PLACES, ("line", "row"), strict=True):
            if row.get(column) is not None:
                return f"{name}: the {self.noun} of {unit} {row[column]}"
        at = row.get("source_index")
        return f"{name}[{index if at is None else at}]"

    def format_row(self, source: Mapping[str, Any], where: str, log: RowLog) -> dict[str, Any] | None:
        """Row of `schema`, or None for one that is dropped and counted.

        Raises:
            RowError: the row cannot be used, and bad rows are not skipped.
        """
        log.rows += 1
        try:
            row = self.format(source, where)
        except RowError as error:
            log.bad(error)
            return None
        arguments = TEMPLATE_ARGUMENTS if ARGUMENTS in row else ()
        read = {*self.read, *arguments, ARGUMENTS, *PLACES}
        log.not_read(name for name, value in source.items() if name not in read and value is not None)
        if "chosen" in row and row["chosen"] == row["rejected"]:
            log.count(IDENTICAL, where)
            return None
        return row | {name: source[name] for name in PLACES if isinstance(source.get(name), int)}

    def to_dataset(self, rows: Rows, log: RowLog) -> Dataset:
        """Rows in memory, a `Dataset` or mappings, as a data set of `schema`; rows of ids stay as they are.

        Raises:
            ValueError: `rows` holds anything else, such as the splits of a `DatasetDict`, or a row cannot be used.
        """
        if isinstance(rows, Dataset):
            if self.ids and self.ids[0] in rows.column_names and not to_table(rows)[self.ids[0]].null_count:
                log.rows += len(rows)
                return to_dataset(rows, self.schema, log.name)
            rows = rows.with_format(None)
        elif isinstance(rows, Mapping):
            raise ValueError(f"{log.name}: expected rows, got {type(rows).__name__} of {', '.join(map(str, rows))}")
        found: list[Mapping[str, Any]] = []
        for index, source in enumerate(rows):
            if not isinstance(source, Mapping):
                raise ValueError(f"{log.name}[{index}]: expected a mapping, got {type(source).__name__}")
            if self.ids and source.get(self.ids[0]) is not None:
                log.rows += 1
                found.append({**source, "source_index": index})
            elif (row := self.format_row(source, self.place(log.name, source, index), log)) is not None:
                found.append({**row, "source_index": index})
        return to_dataset(found, self.schema, log.name)


_PAIR_IDS = ("prompt_ids", "chosen_ids", "rejected_ids")

PAIR = RowKind(
    "pair",
    preference_row,
    Features(PAIR_TEXTS | subset(PAIRS, (*_PAIR_IDS, *GIVEN))),
    frozenset({"prompt", *SIDES, *GIVEN}),
    _PAIR_IDS,
)
PROMPT = RowKind(
    "prompt",
    prompt_row,
    Features(PROMPT_TEXTS | PROMPTS),
    # Files of pairs and of questions with answers serve as files of prompts.
    frozenset({"prompt", "question", *SIDES, "completion", "answer"}),
    ("prompt_ids",),
)
TEXT = RowKind(
    "text",
    completion_row,
    COMPLETION_TEXTS,
    frozenset({"text", "messages", "prompt", "completion", "question", "answer"}),
)
