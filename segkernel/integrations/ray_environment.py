"""Environment of the Ray workers of `segkernel run`, in a cluster that runs already, such as with `ray job submit`.

Its workers inherit the environment of the cluster, not that of the program. Ray calls `hook` in `ray.init`, since
`segkernel run` sets `RAY_RUNTIME_ENV_HOOK`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from segkernel.integrations.estimators import REQUEST
from segkernel.integrations.frameworks import SWITCH

HOOK = "RAY_RUNTIME_ENV_HOOK"
PASSED = (SWITCH, REQUEST, "VERL_USE_EXTERNAL_MODULES")


def hook(runtime_env: Mapping[str, Any] | None) -> dict[str, Any]:
    """Ray's runtime environment with the variables of `segkernel run`; those that it sets already stay."""
    runtime_env = dict(runtime_env or {})
    given = dict(runtime_env.get("env_vars") or {})
    path = [os.environ.get("PYTHONPATH", ""), given.get("PYTHONPATH", "${PYTHONPATH}")]  # Ray expands it in the worker
    passed = {name: os.environ[name] for name in PASSED if name in os.environ}
    return {**runtime_env, "env_vars": {**passed, **given, "PYTHONPATH": os.pathsep.join(filter(None, path))}}
