"""Checkpoints of a run: a manifest that is written last, and the newest checkpoint that agrees with its manifest.

The manifest holds the size and the CRC-32 of every file, so a checkpoint that was cut off, truncated or overwritten is
recognized before any of it is read.
"""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PREFIX = "checkpoint-"

# Folders of an output directory that belong to other checkpoints or to loggers.
OTHER_FOLDERS = ("runs", "wandb", "trackio")


def write_manifest(directory: str | Path, **entries: Any) -> None:
    """Write the manifest of a checkpoint, or of the model saved in an output directory.

    Args:
        directory: the checkpoint, all of whose files are written.
        entries: further JSON values, which `read_manifest` returns.
    """
    files = {path.relative_to(directory).as_posix(): _size_and_checksum(path) for path in _files(Path(directory))}
    write_json(Path(directory) / MANIFEST, {**entries, "files": files})


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one move, so that no reader sees half of it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that the run wrote.

    Raises:
        ValueError: the file is damaged; the message names it.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged: it is not JSON") from error
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} is damaged: expected a JSON object")
    return content


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """Manifest of a directory that `problem_of` found complete."""
    return read_json(Path(directory) / MANIFEST)


def problem_of(directory: str | Path) -> str | None:
    """The first difference between a directory and its manifest; `None` if it is complete."""
    if not (Path(directory) / MANIFEST).is_file():
        return f"it was not written to its end ({MANIFEST} is missing)"
    try:
        files: Mapping[str, list[int]] = read_manifest(directory)["files"]
        for name, (size, checksum) in files.items():
            path = Path(directory) / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} is damaged: it has {path.stat().st_size} bytes, expected {size}"
            if _size_and_checksum(path)[1] != checksum:
                return f"{name} is damaged: its content has changed"
    except OSError as error:
        return f"{Path(error.filename or '').name}: {error.strerror}"
    except (ValueError, TypeError, KeyError):
        return f"{MANIFEST} is damaged"
    return None


def find_checkpoint(output_dir: str | Path, resume_from_checkpoint: str | bool | None) -> str | None:
    """Checkpoint directory of `--resume_from_checkpoint`: a path, or `last` (`True`) for the newest of this run.

    `last` skips a checkpoint that is incomplete or damaged, with a warning that names the file.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: the checkpoint, or every one of the run, is damaged or cannot be resumed.
    """
    if not resume_from_checkpoint:
        return None
    if not is_last(resume_from_checkpoint):
        return _given_checkpoint(Path(str(resume_from_checkpoint)))
    problems: list[str] = []
    for checkpoint in reversed(list_checkpoints(output_dir)):
        problem = problem_of(checkpoint)
        if problem is None:
            _check_resumable(checkpoint)
            for skipped in problems:
                logger.warning("%s; resuming from %s", skipped, checkpoint.name)
            return str(checkpoint)
        problems.append(f"{checkpoint.name} is skipped: {problem}")
    if problems:
        raise ValueError(
            f"resume_from_checkpoint: no checkpoint in {str(output_dir)!r} is complete ({'; '.join(problems)}). "
            "Start the run anew with another --output_dir"
        )
    raise FileNotFoundError(f"resume_from_checkpoint: there is no checkpoint in {str(output_dir)!r}")


def run_of(checkpoint: str | Path) -> Path:
    """Output directory of the run that a checkpoint belongs to; an output directory is its own."""
    path = Path(checkpoint)
    return path.parent if path.name.startswith(PREFIX) else path


def is_last(resume_from_checkpoint: str | bool | None) -> bool:
    """Whether the newest checkpoint of the output directory is meant."""
    return str(resume_from_checkpoint).lower() in ("last", "true")


def _given_checkpoint(checkpoint: Path) -> str:
    if not checkpoint.is_dir():
        raise FileNotFoundError(f"resume_from_checkpoint: there is no directory {str(checkpoint)!r}")
    if not (checkpoint / TRAINER_STATE_NAME).is_file() or not checkpoint.name.startswith(PREFIX):
        raise ValueError(f"resume_from_checkpoint: {str(checkpoint)!r} is not a checkpoint of a trainer")
    problem = problem_of(checkpoint)
    if problem is not None:
        raise ValueError(
            f"resume_from_checkpoint: {str(checkpoint)!r} cannot be resumed: {problem}. "
            "`--resume_from_checkpoint last` resumes from the newest complete checkpoint"
        )
    _check_resumable(checkpoint)
    return str(checkpoint)


def _check_resumable(checkpoint: Path) -> None:
    if read_manifest(checkpoint).get("save_only_model"):
        raise ValueError(
            f"resume_from_checkpoint: {str(checkpoint)!r} was saved with --save_only_model, without the state of the "
            f"optimizer. Start a new run from it with --model {checkpoint}"
        )


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Checkpoint directories of a run, complete or not, in the order of their steps."""
    steps = {}
    for path in Path(output_dir).glob(f"{PREFIX}*"):
        step = path.name.removeprefix(PREFIX)
        if step.isdigit() and path.is_dir():
            steps[int(step)] = path
    return [steps[step] for step in sorted(steps)]


def last_complete(output_dir: str | Path) -> Path | None:
    """The newest checkpoint that was written to its end, without a look at its files."""
    complete = [path for path in list_checkpoints(output_dir) if (path / MANIFEST).is_file()]
    return complete[-1] if complete else None


def delete_old_checkpoints(newest: Path, limit: int | None, best: str | None) -> None:
    """Keep at most `limit` checkpoints of the run: `newest`, the best one, and those of the latest steps."""
    if not limit or limit < 1:
        return
    kept = {newest, *([] if best is None else [Path(best)])}
    others = [path for path in list_checkpoints(newest.parent) if path not in kept]
    for path in others[: max(0, len(others) + len(kept) - max(limit, len(kept)))]:
        # Without a manifest first: a directory that is half deleted must not count as complete.
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)


def _files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if path.name.startswith((".", PREFIX)) or path.name in (MANIFEST, *OTHER_FOLDERS):
            continue
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _size_and_checksum(path: Path) -> list[int]:
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size += len(block)
            checksum = zlib.crc32(block, checksum)
    return [size, checksum]
