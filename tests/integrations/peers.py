"""Packages of `make peers`, and Python processes that run them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "build" / "peers"


class Output(NamedTuple):
    stdout: str
    stderr: str


def folder_of(name: str) -> Path:
    """Folder of a package; the test is skipped without it."""
    folder = PEERS / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not installed in build/peers: run `make peers`")
    return folder


def python(
    *arguments: str | Path,
    path: Sequence[Path] = (),
    variables: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    timeout: float | None = None,
) -> Output:
    """Output of a Python process, which has to succeed.

    Args:
        path: folders for PYTHONPATH.
        variables: of the environment, next to those of this process.
    """
    folders = {"PYTHONPATH": os.pathsep.join(map(str, path))} if path else {}
    # Files, since services of Ray hold a pipe open after the end of the process.
    with TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
        ran = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env={**os.environ, **folders, **(variables or {})},
            cwd=cwd,
            stdout=stdout,
            stderr=stderr,
            timeout=timeout,
            check=False,
        )
        for file in (stdout, stderr):
            file.seek(0)
        output = Output(stdout.read(), stderr.read())
    assert ran.returncode == 0, f"{output.stdout[-4000:]}\n{output.stderr[-4000:]}"
    return output
