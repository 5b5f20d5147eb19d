"""Processes that run the command line.

They are forked from a server process that has imported torch, transformers and the trainers once, so a process starts
in milliseconds. The server itself never computes, so no thread pool is lost by a fork.
"""

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.training.preload"])

Setup = Callable[[], None]


def start_command(
    command: list[str],
    output: Path,
    *,
    environment: Mapping[str, str] | None = None,
    setup: Setup | None = None,
) -> BaseProcess:
    """Start `segkernel COMMAND`; its standard output and error are written to the file `output`.

    Args:
        environment: variables to set.
        setup: module-level function that the process calls first.
    """
    # `Process` is missing in typeshed's base class of contexts.
    process = CONTEXT.Process(target=_run, args=(command, output, dict(environment or {}), setup))
    process.start()
    return process


def run_distributed(command: list[str], output: Path, *, processes: int = 2, setup: Setup | None = None) -> str:
    """Run `segkernel COMMAND` in several processes with the environment variables that torchrun sets.

    Returns:
        The outputs of all processes.
    """
    outputs = [output.with_name(f"{output.name}.{rank}") for rank in range(processes)]
    started = [
        start_command(command, path, environment=environment, setup=setup)
        for path, environment in zip(outputs, environments(processes), strict=True)
    ]
    return _finish(started, outputs)


def environments(processes: int) -> list[dict[str, str]]:
    """The environment variables that torchrun sets, per process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
    }
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]


def _finish(started: list[BaseProcess], outputs: list[Path]) -> str:
    for process in started:
        process.join(300)
    text = "".join(path.read_text() for path in outputs)
    if any(process.exitcode != 0 for process in started):
        for process in started:
            process.kill()
        raise AssertionError(f"exit statuses {[process.exitcode for process in started]}\n{text}")
    return text


def _run(command: list[str], output: Path, environment: dict[str, str], setup: Setup | None) -> None:
    with open(output, "w") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    os.environ |= environment
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background commands with SIGINT ignored
    if setup is not None:
        setup()
    from segkernel import _cli

    sys.exit(_cli.main(command))
