"""verl plug-in: importing it patches verl if `SEGKERNEL_INTEGRATIONS` contains `verl`.

verl 0.9 imports it by itself, in Ray workers as well (entry point group `verl.plugins`); older versions with
`VERL_USE_EXTERNAL_MODULES=segkernel.integrations.verl.plugin`.
"""

import warnings

from segkernel.integrations.frameworks import requested, turned_off
from segkernel.integrations.registry import patch

if not turned_off() and "verl" in requested():
    try:
        patch("verl")
    except Exception as error:  # verl logs it for debugging only
        warnings.warn(f"segkernel's plug-in for verl failed: {error}", stacklevel=2)
        raise
