"""Names of the frameworks, and the environment variable that requests patches. Imports nothing heavy."""

from __future__ import annotations

import os

SWITCH = "SEGKERNEL_INTEGRATIONS"

# Modules that define `FRAMEWORK`, imported on use.
FRAMEWORKS = {
    "trl": "segkernel.integrations.trl.swaps",
    "verl": "segkernel.integrations.verl.swaps",
    "openrlhf": "segkernel.integrations.openrlhf.swaps",
    "llamafactory": "segkernel.integrations.llamafactory.swaps",
}

# Modules that have functions to replace, by framework.
MODULES = {
    "trl": ("trl.trainer.utils",),
    "verl": ("verl.utils.torch_functional", "verl.utils.experimental.torch_functional", "verl.trainer.ppo.core_algos"),
    "openrlhf": ("openrlhf.models.utils", "openrlhf.trainer.ppo_utils.experience_maker"),
    "llamafactory": ("llamafactory.train.trainer_utils",),
}


def requested() -> list[str]:
    """Frameworks to patch, by the environment, `SEGKERNEL_INTEGRATIONS=trl,verl`."""
    return [name.strip() for name in os.environ.get(SWITCH, "").split(",") if name.strip() not in ("", "0")]


def turned_off() -> bool:
    """Whether the environment turns the integrations off, `SEGKERNEL_INTEGRATIONS=0`."""
    return os.environ.get(SWITCH, "").strip() == "0"
