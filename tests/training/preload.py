"""Imports of the server that `tests.training.processes` forks from."""

import gc

from segkernel.training.cli import build, run, train
from segkernel.training.methods.registry import METHODS

__all__ = ["build", "run", "train"]

for method in METHODS.values():
    method.load()

# Before a fork, so that a collection in a child writes to no page of the modules.
gc.freeze()
