"""Fused kernels for segment-level credit assignment: segment token rewards, mask the loss, read only what it keeps."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segkernel._debug import debug
    from segkernel.ops.detect_pivots import detect_pivots
    from segkernel.ops.discounted_sum import discounted_sum
    from segkernel.ops.gae import gae
    from segkernel.ops.group_normalize import group_normalize
    from segkernel.ops.hysteresis import hysteresis
    from segkernel.ops.importance_weights import importance_weights
    from segkernel.ops.linear_token_logprobs import linear_token_logprobs
    from segkernel.ops.location_normalize import fit_location_normalizer, location_normalize
    from segkernel.ops.logprob_state import finish_logprobs, logprob_state, merge_logprob_states
    from segkernel.ops.redistribute import redistribute
    from segkernel.ops.segment import segment
    from segkernel.ops.segment_broadcast import segment_broadcast
    from segkernel.ops.segment_by_entropy import segment_by_entropy
    from segkernel.ops.segment_by_mask import segment_by_mask
    from segkernel.ops.segment_logprobs import segment_logprobs
    from segkernel.ops.segment_reduce import segment_reduce
    from segkernel.ops.select_tokens import select_tokens
    from segkernel.ops.sequence_logprobs import sequence_logprobs
    from segkernel.ops.token_divergences import token_divergences
    from segkernel.ops.token_logprobs import token_logprobs
    from segkernel.ops.topk_divergence import topk_divergence
    from segkernel.ops.vocab_parallel_token_logprobs import vocab_parallel_token_logprobs
    from segkernel.types import Segments, TokenDivergences, TokenLogprobs

__version__ = "0.2.0"

__all__ = [
    "Segments",
    "TokenDivergences",
    "TokenLogprobs",
    "debug",
    "detect_pivots",
    "discounted_sum",
    "finish_logprobs",
    "fit_location_normalizer",
    "gae",
    "group_normalize",
    "hysteresis",
    "importance_weights",
    "linear_token_logprobs",
    "location_normalize",
    "logprob_state",
    "merge_logprob_states",
    "redistribute",
    "segment",
    "segment_broadcast",
    "segment_by_entropy",
    "segment_by_mask",
    "segment_logprobs",
    "segment_reduce",
    "select_tokens",
    "sequence_logprobs",
    "token_divergences",
    "token_logprobs",
    "topk_divergence",
    "vocab_parallel_token_logprobs",
]

# Names not defined in ops/<name>.py.
_MODULES = {
    "Segments": "segkernel.types",
    "TokenDivergences": "segkernel.types",
    "TokenLogprobs": "segkernel.types",
    "debug": "segkernel._debug",
    "finish_logprobs": "segkernel.ops.logprob_state",
    "fit_location_normalizer": "segkernel.ops.location_normalize",
    "merge_logprob_states": "segkernel.ops.logprob_state",
}


def __getattr__(name: str) -> Any:
    """Import torch and the operators on first use, so that `segkernel.numpy` needs neither."""
    if name not in __all__:
        raise AttributeError(f"module 'segkernel' has no attribute {name!r}")
    importlib.import_module("segkernel.ops")  # as a whole: threads that import parts of it can deadlock
    value = getattr(importlib.import_module(_MODULES.get(name, f"segkernel.ops.{name}")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


# If torch is already imported, register `torch.ops.segkernel` eagerly.
if "torch" in sys.modules:
    importlib.import_module("segkernel.ops")
