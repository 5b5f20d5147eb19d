"""Data sets of the `datasets` library: saved directories and names on the Hugging Face hub."""

import re
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from huggingface_hub import HfApi
from huggingface_hub.constants import HF_HUB_OFFLINE

FILE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet", ".gz", ".txt", ".tsv")
HUB_NAME = re.compile(r"([\w.-]+)/[\w.-]+(:[\w.-]+){0,2}")


def split_of(source: str) -> tuple[Path, str | None]:
    """Path of a source, and the split of a saved directory that follows a colon."""
    path, _, split = source.rpartition(":")
    if path and not Path(source).exists() and Path(path).is_dir():
        return Path(path), split
    return Path(source), None


def is_saved(directory: Path) -> bool:
    """Whether `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote a directory."""
    return any((directory / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def from_disk(directory: Path, split: str | None) -> Dataset:
    """Data set of a saved directory; of several splits, this one or `train`.

    Raises:
        ValueError: the directory is damaged, or has no such split.
    """
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


def is_hub_name(source: str) -> bool:
    """Whether a source that is no path here has the form of a name on the hub."""
    match = HUB_NAME.fullmatch(source)
    # With a folder or a suffix of that name here, a file is meant.
    return match is not None and not Path(match[1]).exists() and not source.lower().endswith(FILE_SUFFIXES)


def from_hub(source: str) -> Dataset:
    """Data set of the hub: `OWNER/NAME`, with `:SPLIT` or `:CONFIG:SPLIT`.

    Raises:
        ValueError: there is no network, or no such data set, configuration or split.
    """
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
