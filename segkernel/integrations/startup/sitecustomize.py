"""Start-up module of the Python processes of `segkernel run`, which puts this folder on PYTHONPATH."""

import importlib.util
import os
import sys
from importlib.machinery import PathFinder

# This module hides one of the same name further along the path, which is run first.
sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != os.path.dirname(os.path.abspath(__file__))]
_hidden = PathFinder.find_spec("sitecustomize", sys.path)
if _hidden is not None and _hidden.loader is not None:
    _hidden.loader.exec_module(importlib.util.module_from_spec(_hidden))

try:
    from segkernel.integrations.import_hook import install
except ImportError as error:
    print(f"segkernel: this Python has no segkernel, nothing is patched: {error}", file=sys.stderr)
else:
    install()
