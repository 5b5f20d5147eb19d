"""Machine and package metadata stored with each result."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import torch


def machine() -> dict[str, str]:
    """CPU name, cores, instruction set and versions."""
    from segkernel import __version__  # `make gpu-check` imports this file before segkernel is built
    from segkernel._library import cpu_isa

    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": str(torch.get_num_threads()),
        "isa": cpu_isa(),
        "python": platform.python_version(),
        **installed_versions("torch", "trl"),
        "segkernel": __version__,
    }


def installed_versions(*packages: str) -> dict[str, str]:
    """Versions of the packages among these that are installed."""
    versions = {}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def cpu_slug(here: Mapping[str, str]) -> str:
    """File name of a CPU's results. Processors of one name may have different instruction sets.

    Example:
        >>> cpu_slug({"cpu": "AMD EPYC", "cores": "2", "isa": "avx2"})
        'amd-epyc-2-cores-avx2'
    """
    return slug(f"{here['cpu']} {here['cores']} cores {here['isa']}")


def slug(name: str) -> str:
    """File name from a machine's name.

    Example:
        >>> slug("AMD EPYC 2 cores")
        'amd-epyc-2-cores'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
