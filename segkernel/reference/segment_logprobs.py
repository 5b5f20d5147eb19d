"""Sum or mean of the token log-probabilities of every segment."""

from typing import Any

from torch import Tensor

from segkernel.reference.segment_reduce import segment_reduce
from segkernel.reference.token_logprobs import token_logprobs


def segment_logprobs(
    logits: Tensor,
    labels: Tensor,
    ids: Tensor,
    num_segments: int,
    *,
    reduce: str = "sum",
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    entropy: bool = False,
    cu_seqlens: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    ids = ids.masked_fill(labels == -100, -1)
    per_token: Any = token_logprobs(
        logits,
        labels,
        (ids >= 0) & (ids < num_segments),
        temperature=temperature,
        logit_scale=logit_scale,
        softcap=softcap,
        entropy=True,
    )
    log_probs, entropies = (
        segment_reduce(values, ids, num_segments, reduce=reduce, cu_seqlens=cu_seqlens) for values in per_token
    )
    return (log_probs, entropies) if entropy else log_probs
