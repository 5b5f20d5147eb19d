"""Fused kernels for segment-level credit assignment: segment token rewards, mask the loss, read only what it keeps."""

from segkernel.ops.detect_pivots import detect_pivots
from segkernel.ops.hysteresis import hysteresis

__version__ = "0.1.0"

__all__ = [
    "detect_pivots",
    "hysteresis",
]
