"""Patches at import, for programs without a script of the user's: each function when its module is imported.

`segkernel run` starts a program with it; child processes, such as those of `accelerate launch` or Ray, get it from the
environment. It imports torch only with the framework.
"""

from __future__ import annotations

import atexit
import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from segkernel.integrations.estimators import REQUEST
from segkernel.integrations.frameworks import MODULES, SWITCH, requested


class PatchAtImport(MetaPathFinder):
    """Finder that patches a module after its execution, and finds nothing by itself.

    Args:
        pending: modules that are not imported yet, to the framework they belong to.
    """

    def __init__(self, pending: dict[str, str]) -> None:
        self.pending = pending

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        framework = self.pending.pop(fullname, None)
        if framework is None:
            return None
        spec = importlib.util.find_spec(fullname)
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                try:
                    report(framework, fullname)
                except Exception as error:  # the program works without patches, unless it requested advantages
                    if os.environ.get(REQUEST):
                        raise
                    print(f"segkernel: {fullname} could not be patched: {error!r}", file=sys.stderr)

            loader.exec_module = exec_module
        return spec


def report(framework: str, module: str) -> None:
    """Patch the functions of a module, and log one line to standard error in the first process of a node."""
    registry = importlib.import_module("segkernel.integrations.registry")
    rows = registry.patch_module(framework, module).rows
    if os.environ.get("LOCAL_RANK", "0") != "0" or not rows:
        return
    swapped = sum(row.swapped for row in rows)
    kept = "".join(f"; kept {row.target} ({row.reason})" for row in rows if not row.swapped)
    print(
        f"segkernel: {rows[0].version}: swapped {swapped} of {len(rows)} functions of {module}{kept}", file=sys.stderr
    )
    atexit.unregister(report_calls)
    atexit.register(report_calls)


def report_calls() -> None:
    """Log the calls of every replacement to standard error."""
    registry = importlib.import_module("segkernel.integrations.registry")
    rows = [row for row in registry.status().rows if row.served or row.passed_back]
    if rows:
        print(type(registry.status())(tuple(rows)), file=sys.stderr)


def install() -> None:
    """Prepare the patches of the environment, `SEGKERNEL_INTEGRATIONS=trl`."""
    for name in requested():
        if name not in MODULES and os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"segkernel: {SWITCH}: expected some of {', '.join(MODULES)}, got {name!r}", file=sys.stderr)
    pending = {module: name for name in requested() for module in MODULES.get(name, ())}
    if pending:
        sys.meta_path.insert(0, PatchAtImport(pending))
