"""Readers of data files and data sets, with errors that name the row, and the split into training and held-out rows."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from segkernel.training.data.columns import SIDES
from segkernel.training.data.containers import read_records
from segkernel.training.data.formats import ARGUMENTS, finite_numbers
from segkernel.training.data.row_log import RowError, RowLog
from segkernel.training.data.rows import PAIR, PLACES, PROMPT, TEXT, RowKind
from segkernel.training.data.tables import to_dataset, to_table

__all__ = ["read_preferences", "read_prompts", "read_texts", "split_by_prompt"]

Row = dict[str, Any]

_REWARDS = frozenset(f"{side}_token_rewards" for side in SIDES)


def read_preferences(
    source: str | Path,
    *,
    separator: str = "",
    chosen_rewards: str | None = None,
    rejected_rewards: str | None = None,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Read preference pairs: rows with `prompt`, `chosen`, `rejected`, as strings or as messages.

    Pairs with identical answers are dropped, counted and logged; columns that are not read are logged.

    Args:
        source: path or hub name of a container (`segkernel.training.data.containers`).
        separator: appended to every prompt that is a string.
        chosen_rewards: name of a column with one number per token of the chosen response; read as
            `chosen_token_rewards`.
        rejected_rewards: the same for the rejected response.
        skip_bad_rows: whether a row that cannot be used is counted and logged in place of an error.

    Returns:
        Data set with `prompt`, `chosen`, `rejected`, `line` or `record` (1-based) and, where the rows have them,
        `chosen_mask`, `rejected_mask`, the token rewards of the given columns and, for messages,
        `chat_template_arguments` (`segkernel.training.data.columns.PAIR_TEXTS`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged container, a malformed row, a missing column or one of another type, fewer than two pairs.
    """
    rewards = dict(zip(SIDES, (chosen_rewards, rejected_rewards), strict=True))

    def with_rewards(row: Row, where: str) -> Row:
        given = {f"{side}_token_rewards": finite_numbers(row, name, where) for side, name in rewards.items() if name}
        return {name: value for name, value in row.items() if name not in rewards.values()} | given

    read = frozenset(f"{side}_token_rewards" for side, name in rewards.items() if name)
    return _read(source, PAIR, "preference pairs", separator, skip_bad_rows, with_rewards, unread=_REWARDS - read)


def read_texts(source: str | Path, *, separator: str = "", skip_bad_rows: bool = False) -> Dataset:
    """Read texts for language modeling: rows with `text`, `messages`, `prompt` + `completion`, `question` + `answer`.

    Args:
        source, separator, skip_bad_rows: as in `read_preferences`.

    Returns:
        Data set with `prompt` (empty for a plain `text`), `completion`, `line` or `record` (1-based) and, for messages,
        `chat_template_arguments`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged container, a malformed row, a row with none of these columns, an empty text, fewer than
            two rows.
    """
    return _read(source, TEXT, "texts", separator, skip_bad_rows)


def read_prompts(source: str | Path, *, separator: str = "", skip_bad_rows: bool = False) -> Dataset:
    """Read prompts: rows with `prompt` or `question`, each distinct one once, in the order of the file.

    Args:
        source, separator, skip_bad_rows: as in `read_preferences`.

    Returns:
        Data set with `prompt`, `line` or `record` (1-based) and, for messages, `chat_template_arguments`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged container, a malformed row, a row with neither column, an empty prompt, fewer than two
            prompts.
    """
    return _read(source, PROMPT, "distinct prompts", separator, skip_bad_rows, distinct=True)


def _read(
    source: str | Path,
    kind: RowKind,
    noun: str,
    separator: str,
    skip_bad_rows: bool,
    prepare: Callable[[Row, str], Row] = lambda row, where: row,
    *,
    unread: frozenset[str] = frozenset(),
    distinct: bool = False,
) -> Dataset:
    log = RowLog(str(source), skip_bad_rows=skip_bad_rows)
    rows: list[Row] = []
    seen = set()
    for unit, number, columns, error in read_records(source):
        where = f"{source}, {unit} {number}"
        # Columns that exist in memory only are not read from a container.
        hidden = columns.keys() & {*unread, ARGUMENTS, *PLACES}
        log.not_read(name for name in hidden if columns[name] is not None)
        try:
            if error is not None:
                raise error
            columns = prepare({name: value for name, value in columns.items() if name not in hidden}, where)
        except RowError as reason:
            log.rows += 1
            log.bad(reason)
            continue
        row = kind.format_row(columns, where, log)
        if row is None:
            continue
        key = (row["prompt"], row.get(ARGUMENTS))
        if distinct and key in seen:
            log.count("repeated prompts, used once", where)
            continue
        seen.add(key)
        if ARGUMENTS not in row:
            row["prompt"] += separator if row["prompt"] or kind is not TEXT else ""
        elif separator:
            log.count("prompts of messages, without the separator", where)
        rows.append(row | {"line" if unit == "line" else "record": number})
    log.write()
    if len(rows) < 2:
        raise ValueError(f"{source}: expected at least 2 {noun}, got {len(rows)}")
    return to_dataset(rows, kind.schema, str(source))


def split_by_prompt(
    dataset: Dataset, fraction: float, *, seed: int = 0, key: str = "prompt"
) -> tuple[Dataset, Dataset]:
    """Split rows into `(train, held out)` so that all rows of one prompt land on the same side.

    The prompts are ordered by a hash of their text and `seed`; the first `fraction` of them is held out. The
    result depends on neither the order of the rows nor the run.

    Raises:
        ValueError: `fraction` is outside `[0, 1)`, or either side would be empty.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"eval_fraction: expected 0 <= eval_fraction < 1, got {fraction}")
    if fraction == 0:
        return dataset, dataset.select(range(0))
    texts = to_table(dataset.select_columns(key))[key].to_pylist()
    prompts = sorted(set(texts), key=lambda text: hashlib.sha256(f"{seed}\0{text}".encode()).digest())
    if len(prompts) < 2:
        raise ValueError(f"eval_fraction: expected 0, since all rows share one prompt, got {fraction}")
    count = min(max(round(fraction * len(prompts)), 1), len(prompts) - 1)
    chosen = set(prompts[:count])
    held_out = np.array([text in chosen for text in texts])
    return dataset.select(np.flatnonzero(~held_out)), dataset.select(np.flatnonzero(held_out))
