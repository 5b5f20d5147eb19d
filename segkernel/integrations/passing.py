"""Conditions under which a call passes back to the original function."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from segkernel._library import cuda_kernels
from segkernel.integrations.targets import PassBack

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_served(*tensors: Tensor) -> None:
    """Pass back tensors on devices or of dtypes without kernels.

    float64 passes back too: the frameworks return float32 for it, or raise.
    """
    for tensor in tensors:
        device = tensor.device.type
        if device != "cpu" and not (device == "cuda" and cuda_kernels.problem is None):
            raise PassBack(f"device {device}")
        if tensor.is_floating_point() and tensor.dtype not in DTYPES:
            raise PassBack(f"dtype {str(tensor.dtype).removeprefix('torch.')}")


def check_weight(weight: Any) -> None:
    """Pass back the weight of an LM head that is a shard of it: ZeRO-3 parameters and DTensors."""
    if hasattr(weight, "ds_id"):
        raise PassBack("ZeRO-3 weight")
    if type(weight) not in (Tensor, torch.nn.Parameter):
        raise PassBack(f"weight of type {type(weight).__name__}")


def check_positive(**scalars: float) -> None:
    """Pass back scalars that are not positive, which segkernel refuses."""
    for name, value in scalars.items():
        if not value > 0:
            raise PassBack(f"{name} {value:g}")
