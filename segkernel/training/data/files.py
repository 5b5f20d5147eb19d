"""Files of rows: JSONL, JSON arrays, CSV and Parquet."""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from segkernel.training.data.row_log import RowError


class Record(NamedTuple):
    """One row of a container, as read, or the error that it has."""

    unit: str  # "line" of a text file, "row" of other containers
    number: int  # 1-based
    row: dict[str, Any]
    error: RowError | None = None


def reader_of(path: Path) -> Callable[[Path], Iterator[Record]] | None:
    """Function that reads a file of this name, or None for a kind that is not read."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    elif suffixes[-1:] == [".parquet"]:
        return _read_parquet
    return {"": _read_jsonl, ".jsonl": _read_jsonl, ".ndjson": _read_jsonl, ".json": _read_json, ".csv": _read_csv}.get(
        suffixes[-1] if suffixes else ""
    )


def _open(path: Path) -> Any:
    return gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of every line, without a byte order mark.

    Raises:
        ValueError: the compressed data is damaged.
    """
    number = 0
    with _open(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path}, after line {number}: damaged gzip data: {error}") from error


def _read_jsonl(path: Path) -> Iterator[Record]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            yield Record("line", number, _object(json.loads(line.decode("utf-8"))))
        except (ValueError, RecursionError) as error:
            yield Record("line", number, {}, RowError(f"{path}, line {number}: {_reason(error)}"))


def _read_json(path: Path) -> Iterator[Record]:
    """Read a JSON array of objects; a file that starts otherwise is read as JSONL."""
    data = b"".join(line for _, line in _lines(path))
    is_array = data.lstrip()[:1] == b"["
    try:
        rows = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        if is_array:
            raise ValueError(f"{path}: {_reason(error)}") from error
        yield from _read_jsonl(path)
        return
    if not is_array:
        got = f"an object with the keys {sorted(rows)}" if isinstance(rows, dict) else type(rows).__name__
        raise ValueError(f"{path}: expected an array of objects, or one object per line, got {got}")
    for number, row in enumerate(rows, start=1):
        try:
            yield Record("row", number, _object(row))
        except ValueError as error:
            yield Record("row", number, {}, RowError(f"{path}, row {number}: {error}"))


def _read_csv(path: Path) -> Iterator[Record]:
    """Read a CSV file whose first line names the columns; every value is a string."""
    csv.field_size_limit(sys.maxsize)
    data = b"".join(line for _, line in _lines(path))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: {_reason(error)}") from error
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        header = next(rows, [])
        line = rows.line_num + 1
        for row in rows:
            if len(row) == len(header):
                yield Record("line", line, dict(zip(header, row, strict=True)))
            elif row:
                message = f"{path}, line {line}: expected {len(header)} values as in the first line, got {len(row)}"
                yield Record("line", line, {}, RowError(message))
            line = rows.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {line}: malformed CSV: {error}") from error


def _read_parquet(path: Path) -> Iterator[Record]:
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet: {error}") from error
    return numbered(rows)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _reason(error: Exception) -> str:
    match error:
        case json.JSONDecodeError():
            return f"malformed JSON: {error}"
        case UnicodeDecodeError():
            return f"invalid UTF-8: byte 0x{error.object[error.start]:02x} ({error.reason})"
        case RecursionError():
            return "malformed JSON: nested too deeply"
    return str(error)


def numbered(rows: Iterable[Any]) -> Iterator[Record]:
    """Records of the rows of a table."""
    return (Record("row", number, dict(row)) for number, row in enumerate(rows, start=1))
