"""Set-ups of processes that meet a fault, and waits for them."""

import resource
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any


def pause_at_step(step: int, paused: Path, *, hold: bool = False) -> None:
    """Make the run touch the file `paused` at the start of a step, and go on when it is to stop.

    Args:
        hold: stay there, so that a second signal arrives in the same step.
    """
    from segkernel.training.trainer.base import SegkernelTrainer

    original = SegkernelTrainer.training_step

    def training_step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if trainer.state.global_step + 1 == step:
            paused.touch()
            while hold or trainer.stop_request.received is None:
                time.sleep(0.005)
        return original(trainer, *args, **kwargs)

    SegkernelTrainer.training_step = training_step


def limit_files(size: int) -> None:
    """Limit the size of the files that the process writes, in bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def wait_until(condition: Callable[[], bool], process: BaseProcess) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def exit_status(process: BaseProcess) -> int:
    """Exit status of a process when it has ended: minus the signal that killed it."""
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode
