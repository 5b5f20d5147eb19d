"""Output directories: one run each, and the record of what the run is."""

import json
import os
from pathlib import Path
from typing import Any

from segkernel.training.data.containers import digest
from segkernel.training.trainer.checkpoints import read_json, write_json

RECORD = "run.json"

# Entries of the record that a resumed run may change: the data are compared by their digest.
FREE_ENTRIES = ("data",)


def check_run_directory(output_dir: str | Path, *, resuming: bool) -> None:
    """Refuse a directory that already holds a run, unless that run is to be resumed.

    Raises:
        FileExistsError: there are checkpoints or a saved model in `output_dir`.
    """
    directory = Path(output_dir)
    if resuming or not directory.is_dir():
        return
    for pattern in ("checkpoint-*", "*.safetensors", "pytorch_model*.bin", "trainer_state.json"):
        for found in sorted(directory.glob(pattern)):
            raise FileExistsError(
                f"output_dir: {str(directory)!r} already holds a run ({found.name}). Continue it with "
                "--resume_from_checkpoint last, or give another --output_dir"
            )


def check_writable(output_dir: str) -> None:
    """Refuse an output directory that cannot be made or written to.

    Raises:
        OSError: a part of the path is a file, or not writable.
        ValueError: it is no path.
    """
    if not str(output_dir) or "\0" in str(output_dir):
        raise ValueError(f"output_dir: expected a directory, got {str(output_dir)!r}")
    path = Path(output_dir)
    existing = next(path for path in (path, *path.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise NotADirectoryError(f"output_dir: expected a directory, got the file {str(existing)!r}")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(f"output_dir: the directory {str(existing)!r} is not writable")


def run_record(method: str, data_file: str | Path, model: str | None) -> dict[str, Any]:
    """Identity of a run: resuming it with another method, data file or initial model would mix two runs."""
    return {"method": method, "data": str(data_file), "data_sha256": digest(data_file), "model": model}


def write_record(output_dir: str | Path, record: dict[str, Any]) -> None:
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    write_json(Path(output_dir) / RECORD, record)


def check_record(output_dir: str | Path, record: dict[str, Any]) -> None:
    """Refuse to resume a run that was another method, read other data or started from another model.

    Raises:
        ValueError: the record in `output_dir` differs from `record`, or is damaged.
    """
    path = Path(output_dir) / RECORD
    if not path.is_file():
        return
    before, now = read_json(path), json.loads(json.dumps(record))
    different = [
        f"{name}={before[name]!r}, this one has {now[name]!r}"
        for name in now
        if name in before and name not in FREE_ENTRIES and json.dumps(before[name]) != json.dumps(now[name])
    ]
    if different:
        raise ValueError(
            f"resume_from_checkpoint: the run in {str(output_dir)!r} had {'; '.join(different)}. Resume it as it was "
            "started, or start another run with another --output_dir"
        )
