"""Containers of rows: JSONL, JSON, CSV and Parquet files, saved data sets, and data sets of the Hugging Face hub."""

import csv
import gzip
import hashlib
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from huggingface_hub import HfApi
from huggingface_hub.constants import HF_HUB_OFFLINE

from segkernel.training.data.row_log import RowError

__all__ = ["Record", "check_source", "digest", "read_records"]

READ = (
    "a .jsonl, .json, .csv or .parquet file (all but Parquet also with .gz), a directory written by "
    "`Dataset.save_to_disk` (DIR or DIR:SPLIT), or a data set of the hub (OWNER/NAME, OWNER/NAME:SPLIT or "
    "OWNER/NAME:CONFIG:SPLIT)"
)
FILE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".gz", ".txt", ".tsv")
HUB_NAME = re.compile(r"([\w.-]+)/[\w.-]+(:[\w.-]+){0,2}")


class Record(NamedTuple):
    """One row of a container, as read, or the error that it has."""

    unit: str  # "line" of a text file, "row" of other containers
    number: int  # 1-based
    row: dict[str, Any]
    error: RowError | None = None


def check_source(option: str, source: str) -> str:
    """Source of an option, if rows can be read from it; the hub is not contacted.

    Raises:
        ValueError: the option is missing, or the kind of the file or directory is not read.
        FileNotFoundError: there is no such file or directory.
    """
    if not source:
        raise ValueError(f"{option}: expected {READ}, got none (--{option} SOURCE)")
    path, _ = _split_of(source)
    if path.is_dir():
        if not _is_saved(path):
            raise ValueError(f"{option}: expected {READ}, got the directory {source!r}")
    elif path.exists():
        if _reader(path) is None:
            raise ValueError(f"{option}: expected {READ}, got {source!r}")
    elif not _is_hub_name(source):
        raise FileNotFoundError(f"{option}: there is no file {source!r}")
    return source


def read_records(source: str | Path) -> Iterator[Record]:
    """Yield the rows of a container, in their order.

    Args:
        source: path of a file or a directory, or name of a data set of the hub (`READ`).

    Raises:
        FileNotFoundError: there is no such file or directory.
        ValueError: the container is damaged, or of a kind that is not read.
    """
    check_source(str(source), str(source))
    path, split = _split_of(str(source))
    if not path.exists():
        return _numbered(_from_hub(str(source)))
    if path.is_dir():
        return _numbered(_from_disk(path, split))
    reader = _reader(path)
    assert reader is not None  # by `check_source`
    return reader(path)


def digest(source: str | Path) -> str:
    """SHA-256 of the contents of a container: of its bytes or, from the hub, of the fingerprint of the data set."""
    path, _ = _split_of(str(source))
    found = hashlib.sha256()
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            found.update(f"{file.relative_to(path)}\0".encode())
            found.update(hashlib.sha256(file.read_bytes()).digest())
    elif path.exists():
        found.update(path.read_bytes())
    else:
        found.update(_from_hub(str(source))._fingerprint.encode())
    return found.hexdigest()


# --- files -----------------------------------------------------------------------------------------------------------


def _reader(path: Path) -> Callable[[Path], Iterator[Record]] | None:
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
    if data.lstrip()[:1] != b"[":
        yield from _read_jsonl(path)
        return
    try:
        rows = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {_reason(error)}") from error
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
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: cannot be read as Parquet: {error}") from error
    return _numbered(table.to_pylist())


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


# --- data sets -------------------------------------------------------------------------------------------------------


def _numbered(rows: Iterable[Any]) -> Iterator[Record]:
    return (Record("row", number, dict(row)) for number, row in enumerate(rows, start=1))


def _split_of(source: str) -> tuple[Path, str | None]:
    """Path of a source, and the split of a saved directory that follows a colon."""
    path, _, split = source.rpartition(":")
    if path and not Path(source).exists() and Path(path).is_dir():
        return Path(path), split
    return Path(source), None


def _is_saved(directory: Path) -> bool:
    return any((directory / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def _from_disk(directory: Path, split: str | None) -> Dataset:
    try:
        found = load_from_disk(str(directory))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{directory}: cannot be read as a saved data set: {_first_line(error)}") from error
    if isinstance(found, DatasetDict):
        wanted = split or ("train" if len(found) > 1 else next(iter(found)))
        if wanted not in found:
            raise ValueError(f"{directory}: expected one of the splits {', '.join(found)} as DIR:SPLIT, got {wanted!r}")
        return found[wanted]
    if split is not None:
        raise ValueError(f"{directory}: expected no split, since the directory has none, got {split!r}")
    return found


def _is_hub_name(source: str) -> bool:
    match = HUB_NAME.fullmatch(source)
    # With a folder or a suffix of that name here, a file is meant.
    return match is not None and not Path(match[1]).exists() and not source.lower().endswith(FILE_SUFFIXES)


def _from_hub(source: str) -> Dataset:
    name, *options = source.split(":")
    split = options.pop() if options else "train"
    try:
        if not HF_HUB_OFFLINE:
            # Fails at once without a network; `load_dataset` would retry for half a minute.
            HfApi().dataset_info(name, timeout=10)
        return load_dataset(name, *options, split=split)
    except Exception as error:  # of many libraries: no network, no such data set, no such split
        raise ValueError(
            f"{source}: cannot be loaded from the hub, and there is no such file here: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
