"""Reference implementations in pure PyTorch, which the kernels are tested against.

The signatures are those of the public functions, without `inplace_backward`. Arguments are not validated.
"""

from segkernel.reference.detect_pivots import detect_pivots
from segkernel.reference.discounted_sum import discounted_sum
from segkernel.reference.gae import gae
from segkernel.reference.group_normalize import group_normalize
from segkernel.reference.hysteresis import hysteresis
from segkernel.reference.importance_weights import importance_weights
from segkernel.reference.linear_token_logprobs import linear_token_logprobs
from segkernel.reference.location_normalize import location_normalize
from segkernel.reference.redistribute import redistribute
from segkernel.reference.segment import segment
from segkernel.reference.segment_broadcast import segment_broadcast
from segkernel.reference.segment_by_entropy import segment_by_entropy
from segkernel.reference.segment_by_mask import segment_by_mask
from segkernel.reference.segment_logprobs import segment_logprobs
from segkernel.reference.segment_reduce import segment_reduce
from segkernel.reference.select_tokens import select_tokens
from segkernel.reference.sequence_logprobs import sequence_logprobs
from segkernel.reference.token_divergences import token_divergences
from segkernel.reference.token_logprobs import token_logprobs
from segkernel.reference.topk_divergence import topk_divergence

__all__ = [
    "detect_pivots",
    "discounted_sum",
    "gae",
    "group_normalize",
    "hysteresis",
    "importance_weights",
    "linear_token_logprobs",
    "location_normalize",
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
]
