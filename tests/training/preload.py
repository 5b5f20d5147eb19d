"""Imports of the server that `tests.training.processes` forks from."""

from segkernel.training.cli import build, run, train
from segkernel.training.methods.registry import METHODS

__all__ = ["build", "run", "train"]

for method in METHODS.values():
    method.load()
