"""One file per operator: public function, fake kernel and, if it is differentiable, its derivative.

Imported together because the derivative of an operator may be another operator.
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
