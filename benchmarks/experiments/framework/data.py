"""Data file that an experiment reads and the repository does not have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.experiments.framework.settings import Settings
from benchmarks.experiments.framework.workspace import write_atomically

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class DataSettings(Settings):
    """Settings of an experiment that reads a file.

    Args:
        data_sha256: digest of the rows that were read, so that results of different data never mix.
    """

    data_sha256: str = ""


@dataclass(frozen=True)
class DataFile:
    """Input of an experiment, given as `--data`.

    Args:
        description: its rows, for messages.
        read: reader of its rows, which raises `OSError` or `ValueError` for a file that it cannot use.
    """

    description: str
    read: Callable[[Path], Rows]


def digest(rows: Rows) -> str:
    """SHA-256 of rows.

    Example:
        >>> digest([{"prompt": "1 + 1?"}]) == digest([{"prompt": "1 + 2?"}])
        False
    """
    return hashlib.sha256(_lines(rows).encode()).hexdigest()


def store_rows(rows: Rows, root: Path) -> None:
    """Store rows for the workspaces below `root`."""
    write_atomically(_path(root), _lines(rows))


def load_rows(root: Path) -> list[dict[str, Any]]:
    """Rows of `store_rows`."""
    return [json.loads(line) for line in _path(root).read_text().splitlines()]


def _path(root: Path) -> Path:
    return root / "data.jsonl"


def _lines(rows: Rows) -> str:
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
