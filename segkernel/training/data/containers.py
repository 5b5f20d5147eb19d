"""Containers of rows: files, saved data sets, and data sets of the Hugging Face hub."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from segkernel.training.data.files import Record, numbered, reader_of
from segkernel.training.data.saved_datasets import from_disk, from_hub, is_hub_name, is_saved, split_of

__all__ = ["check_source", "digest", "read_records"]

READ = (
    "a .jsonl, .json, .csv or .parquet file (all but Parquet also with .gz), a directory written by "
    "`Dataset.save_to_disk` (DIR or DIR:SPLIT), or a data set of the hub (OWNER/NAME, OWNER/NAME:SPLIT or "
    "OWNER/NAME:CONFIG:SPLIT)"
)


def check_source(option: str, source: str) -> str:
    """Source of an option, if rows can be read from it; the hub is not contacted.

    Raises:
        ValueError: the option is missing, or the kind of the file or directory is not read.
        FileNotFoundError: there is no such file or directory.
    """
    if not source:
        raise ValueError(f"{option}: expected {READ}, got none (--{option} SOURCE)")
    path, _ = split_of(source)
    if path.is_dir():
        if not is_saved(path):
            raise ValueError(f"{option}: expected {READ}, got the directory {source!r}")
    elif path.exists():
        # A pipe could not be read twice: for the digest and for the rows.
        if reader_of(path) is None or not path.is_file():
            raise ValueError(f"{option}: expected {READ}, got {source!r}")
    elif not is_hub_name(source):
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
    path, split = split_of(str(source))
    if not path.exists():
        return numbered(from_hub(str(source)))
    if path.is_dir():
        return numbered(from_disk(path, split))
    reader = reader_of(path)
    assert reader is not None  # by `check_source`
    return reader(path)


def digest(source: str | Path) -> str:
    """SHA-256 of the contents of a container: of its bytes or, from the hub, of the fingerprint of the data set."""
    path, split = split_of(str(source))
    found = hashlib.sha256((split or "").encode())
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            found.update(f"{file.relative_to(path)}\0".encode())
            found.update(hashlib.sha256(file.read_bytes()).digest())
    elif path.exists():
        found.update(path.read_bytes())
    else:
        found.update(from_hub(str(source))._fingerprint.encode())
    return found.hexdigest()
