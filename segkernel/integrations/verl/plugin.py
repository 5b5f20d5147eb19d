"""verl plug-in: importing it adds segkernel's names to verl's registries.

verl 0.9 imports it by itself, in Ray workers as well (entry point group `verl.plugins`); older versions with
`VERL_USE_EXTERNAL_MODULES=segkernel.integrations.verl.plugin`. Functions are patched only if `SEGKERNEL_INTEGRATIONS`
contains `verl`; with `SEGKERNEL_INTEGRATIONS=0` it does nothing.
"""

import warnings

from segkernel.integrations.frameworks import requested, turned_off
from segkernel.integrations.registry import patch
from segkernel.integrations.verl.credit import register

if not turned_off():
    try:
        register()
        if "verl" in requested():
            patch("verl")
    except Exception as error:  # verl logs it for debugging only
        warnings.warn(f"segkernel's plug-in for verl failed: {error}", stacklevel=2)
        raise
