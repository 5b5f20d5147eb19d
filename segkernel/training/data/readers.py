"""Readers of JSONL files, with errors that name file and line, and the split into training and held-out rows."""

import gzip
import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features

from segkernel.training.data.columns import COMPLETION_TEXTS, PAIR_TEXTS, PAIRS, PROMPT_TEXTS, SIDES, subset
from segkernel.training.data.tables import to_dataset, to_table

__all__ = [
    "read_jsonl",
    "read_preferences",
    "read_prompts",
    "read_texts",
    "split_by_prompt",
]


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield `(line number, object)` for every line of a JSONL or gzipped JSONL file that is not blank.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not a JSON object, or the file cannot be decoded; names the file and the line.
    """
    path = Path(path)
    number = 0
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"expected a JSON object, got {type(row).__name__}")
                    yield number, row
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: malformed JSON: {error}") from error
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
            raise ValueError(f"{path}, after line {number}: cannot be read: {error}") from error
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error


def read_preferences(
    path: str | Path, *, separator: str = "", chosen_rewards: str | None = None, rejected_rewards: str | None = None
) -> Dataset:
    """Read preference pairs in TRL's format: one JSON object per line with `prompt`, `chosen`, `rejected`.

    Args:
        path: a `.jsonl` or `.jsonl.gz` file.
        separator: appended to every prompt.
        chosen_rewards: name of a column with one number per token of the chosen response; read as
            `chosen_token_rewards`.
        rejected_rewards: the same for the rejected response.

    Returns:
        Data set with `prompt`, `chosen`, `rejected`, `line` (1-based) and, if columns are given, the token rewards.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a malformed line, a missing or non-string column, identical answers, fewer than two pairs.
    """
    path = Path(path)
    columns = dict(zip(SIDES, (chosen_rewards, rejected_rewards), strict=True))
    schema = Features(PAIR_TEXTS | subset(PAIRS, [f"{side}_token_rewards" for side in SIDES]))
    rows = []
    for number, source in read_jsonl(path):
        where = f"{path}, line {number}"
        row: dict[str, Any] = {name: _string(source, name, where) for name in ("prompt", *SIDES)}
        if row["chosen"] == row["rejected"]:
            raise ValueError(f"{where}: 'chosen' and 'rejected' are identical, so the pair prefers nothing")
        row["prompt"] += separator
        for side, column in columns.items():
            if column is not None:
                row[f"{side}_token_rewards"] = _numbers(source, column, where)
        rows.append({**row, "line": number})
    return _at_least_two(rows, schema, path, "preference pairs")


def read_texts(path: str | Path, *, separator: str = "") -> Dataset:
    """Read texts for language modeling: rows with `text`, `prompt` + `completion` or `question` + `answer`.

    Returns:
        Data set with `prompt` (empty for a plain `text`), `completion` and `line` (1-based).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a malformed line, a row with none of these columns, an empty text, fewer than two rows.
    """
    path = Path(path)
    rows = []
    for number, source in read_jsonl(path):
        where = f"{path}, line {number}"
        if "text" in source:
            prompt, completion = "", _string(source, "text", where)
        elif "question" in source:
            prompt, completion = _string(source, "question", where), _string(source, "answer", where)
        elif "prompt" in source:
            prompt, completion = _string(source, "prompt", where), _string(source, "completion", where)
        else:
            raise ValueError(
                f"{where}: expected 'text', or 'prompt' and 'completion', or 'question' and 'answer', "
                f"got the columns {sorted(source)}"
            )
        if not (prompt or completion):
            raise ValueError(f"{where}: the text is empty")
        rows.append({"prompt": prompt + separator if prompt else "", "completion": completion, "line": number})
    return _at_least_two(rows, COMPLETION_TEXTS, path, "texts")


def read_prompts(path: str | Path, *, separator: str = "") -> Dataset:
    """Read prompts: rows with `prompt` or `question`, each distinct one once, in the order of the file.

    Returns:
        Data set with `prompt` and `line` (1-based).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a malformed line, a row with neither column, an empty prompt, fewer than two prompts.
    """
    path = Path(path)
    rows: dict[str, dict[str, Any]] = {}
    for number, source in read_jsonl(path):
        where = f"{path}, line {number}"
        prompt = _string(source, "question" if "question" in source else "prompt", where)
        if not prompt:
            raise ValueError(f"{where}: the prompt is empty")
        rows.setdefault(prompt, {"prompt": prompt + separator, "line": number})
    return _at_least_two(list(rows.values()), PROMPT_TEXTS, path, "distinct prompts")


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
        raise ValueError(f"eval_fraction: expected a share in [0, 1), got {fraction}")
    if fraction == 0:
        return dataset, dataset.select(range(0))
    texts = to_table(dataset.select_columns(key))[key].to_pylist()
    prompts = sorted(set(texts), key=lambda text: hashlib.sha256(f"{seed}\0{text}".encode()).digest())
    if len(prompts) < 2:
        raise ValueError("eval_fraction: all rows share one prompt, so none can be held out; pass 0")
    count = min(max(round(fraction * len(prompts)), 1), len(prompts) - 1)
    chosen = set(prompts[:count])
    held_out = np.array([text in chosen for text in texts])
    return dataset.select(np.flatnonzero(~held_out)), dataset.select(np.flatnonzero(held_out))


def _string(row: dict[str, Any], name: str, where: str) -> str:
    if name not in row:
        raise ValueError(f"{where}: expected the key {name!r}, got {sorted(row)}")
    value = row[name]
    if not isinstance(value, str):
        raise ValueError(f"{where}: {name!r}: expected a string, got {type(value).__name__}")
    return value


def _numbers(row: dict[str, Any], name: str, where: str) -> list[float]:
    if name not in row:
        raise ValueError(f"{where}: expected the key {name!r}, got {sorted(row)}")
    values = row[name]
    if not isinstance(values, list) or not all(
        isinstance(value, int | float) and math.isfinite(value) for value in values
    ):
        raise ValueError(f"{where}: {name!r}: expected a list of finite numbers, one per response token")
    return [float(value) for value in values]


def _at_least_two(rows: list[dict[str, Any]], schema: Features, path: Path, what: str) -> Dataset:
    if len(rows) < 2:
        raise ValueError(f"{path}: expected at least 2 {what}, got {len(rows)}")
    return to_dataset(rows, schema, str(path))
