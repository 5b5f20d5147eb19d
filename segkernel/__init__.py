"""Fused kernels for segment-level credit assignment: segment token rewards, mask the loss, read only what it keeps."""

from segkernel.ops.detect_pivots import detect_pivots
from segkernel.ops.gae import gae
from segkernel.ops.hysteresis import hysteresis
from segkernel.ops.redistribute import redistribute
from segkernel.ops.segment import segment
from segkernel.ops.segment_broadcast import segment_broadcast
from segkernel.ops.segment_by_entropy import segment_by_entropy
from segkernel.ops.segment_reduce import segment_reduce
from segkernel.segments import Segments

__version__ = "0.1.0"

__all__ = [
    "Segments",
    "detect_pivots",
    "gae",
    "hysteresis",
    "redistribute",
    "segment",
    "segment_broadcast",
    "segment_by_entropy",
    "segment_reduce",
]
