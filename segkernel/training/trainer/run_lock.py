"""Lock of an output directory, held by the process that writes to it."""

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

LOCK = ".lock"

_held: set[Path] = set()  # by this process


@contextmanager
def run_lock(output_dir: str | Path) -> Iterator[None]:
    """Hold the lock of an output directory, which is made if it is missing.

    The kernel releases the lock when the process dies. The process may take it again while it holds it.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the directory cannot be made, or no file in it.
    """
    directory = Path(output_dir).resolve()
    if directory in _held:
        yield
        return
    try:
        made = not directory.exists()
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(directory / LOCK, str(output_dir))
    except BlockingIOError:
        raise
    except OSError as error:
        raise OSError(f"output_dir: {str(output_dir)!r} cannot be written: {error.strerror}") from error
    _held.add(directory)
    try:
        yield
    finally:
        _held.discard(directory)
        (directory / LOCK).unlink(missing_ok=True)
        os.close(descriptor)
        if made and directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()  # the run was refused before it wrote anything


def _lock(path: Path, output_dir: str) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 64).decode(errors="replace").strip()
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                os.close(descriptor)
                raise BlockingIOError(
                    f"output_dir: {output_dir!r} is in use by another run (process {holder or 'unknown'}). Wait until "
                    "it ends, or give another --output_dir"
                ) from error
            logger.warning("output_dir: %r cannot be locked (%s); a second run there is not noticed", output_dir, error)
            return descriptor
        # The previous holder may have deleted the file between the two calls.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            return descriptor
        os.close(descriptor)
