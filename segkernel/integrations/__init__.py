"""Operators of segkernel inside other trainers: TRL, verl, OpenRLHF, LLaMA-Factory, ms-swift.

Nothing is patched until `patch` is called:

    from segkernel import integrations

    print(integrations.patch("trl"))
    ...
    print(integrations.status())
    integrations.unpatch()

`SEGKERNEL_INTEGRATIONS=0` in the environment turns all of it off.
"""

from segkernel.integrations.registry import FRAMEWORKS, patch, patched, status, unpatch
from segkernel.integrations.report import PatchReport, StatusReport

__all__ = ["FRAMEWORKS", "PatchReport", "StatusReport", "patch", "patched", "status", "unpatch"]
