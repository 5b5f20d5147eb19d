"""Operators of segkernel inside other trainers: TRL and with it ms-swift, verl, OpenRLHF, LLaMA-Factory.

`slime`, `skyrl` and `prime_rl` are functions for these frameworks' own options, which patch nothing.

Nothing is patched until `patch` is called:

    from segkernel import integrations

    print(integrations.patch("trl"))
    ...
    print(integrations.status())
    integrations.unpatch()

`SEGKERNEL_INTEGRATIONS=0` in the environment turns all of it off.
"""

import importlib
from typing import TYPE_CHECKING, Any

from segkernel.integrations.frameworks import FRAMEWORKS

if TYPE_CHECKING:
    from segkernel.integrations.registry import patch, patched, status, unpatch
    from segkernel.integrations.report import PatchReport, StatusReport

__all__ = ["FRAMEWORKS", "PatchReport", "StatusReport", "patch", "patched", "status", "unpatch"]


def __getattr__(name: str) -> Any:
    """Import the registry, and with it torch, on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "report" if name.endswith("Report") else "registry"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
