"""Loads the operators, so that `torch.ops.segkernel` is populated whoever imports first."""

from pathlib import Path

import torch

_PATH = Path(__file__).parent / "_cpu.so"

if not _PATH.exists():
    raise ImportError(
        f"segkernel's compiled operators are missing ({_PATH.name}). In a source checkout build them with "
        "`pip install --no-build-isolation -e .`"
    )
torch.ops.load_library(str(_PATH))
ops = torch.ops.segkernel


def cpu_isa() -> str:
    """The instruction set that the CPU kernels use: "avx512", "avx2" or "baseline".

    Chosen when first needed; the environment variable `SEGKERNEL_ISA` may name a lower one.
    """
    return str(ops.cpu_isa.default())
