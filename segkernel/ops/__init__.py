"""One file per operator: docstring, wrapper, fake kernel and, where it has one, its derivative.

Imported together: an operator's derivative may be another operator.
"""

from segkernel.ops import (  # noqa: F401
    detect_pivots,
    gae,
    hysteresis,
    linear_token_logprobs,
    location_normalize,
    redistribute,
    segment,
    segment_broadcast,
    segment_by_entropy,
    segment_logprobs,
    segment_reduce,
    sequence_logprobs,
    token_logprobs,
)
