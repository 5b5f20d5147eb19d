"""Errors while a model or a checkpoint is written: one sentence with the file, the reason and what to do."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from segkernel.training.trainer.checkpoints import last_complete

# Messages of torch.save's writer, which has no exception type of its own.
TORCH_WRITER = re.compile(r"PytorchStreamWriter|inline_container|basic_ios|iostream|Parent directory|cannot be opened")


class SaveError(RuntimeError):
    """A file of a run could not be written."""


@contextmanager
def save_errors(directory: str | Path, output_dir: str | Path) -> Iterator[None]:
    """Turn errors of the file system into a `SaveError`; other errors pass.

    Args:
        directory: the directory that is written, a checkpoint or the output directory itself.
        output_dir: the output directory of the run.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = _reason(error, Path(directory))
        if reason is None:
            raise
        name = _name(error, Path(directory))
        last = last_complete(output_dir)
        kept = (
            "There is no complete checkpoint yet"
            if last is None
            else f"{last} is complete; add `--resume_from_checkpoint last` to the same command to resume from it"
        )
        raise SaveError(f"{name} could not be written: {reason}. {kept}") from error


def _reason(error: Exception, directory: Path) -> str | None:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, SafetensorError):
        found = re.search(r"os error (\d+)", str(error))
        return os.strerror(int(found[1])) if found else None
    if not TORCH_WRITER.search(str(error)):
        return None
    # torch.save does not pass the reason on; a small file meets the same one.
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(bytes(1 << 20))
            probe.flush()
    except OSError as probed:
        return probed.strerror or str(probed)
    return "the disk is full, or a limit on the size of files is reached"


def _name(error: Exception, directory: Path) -> str:
    if isinstance(error, SafetensorError):  # it deletes the file
        return f"the weights in {directory}"
    return str(getattr(error, "filename", None) or _last_written(directory))


def _last_written(directory: Path) -> Path:
    files = [path for path in directory.rglob("*") if path.is_file()] if directory.is_dir() else []
    return max(files, key=lambda path: path.stat().st_mtime_ns, default=directory)
