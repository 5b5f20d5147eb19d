"""`token_logprobs` of `hidden @ weight.T + bias`."""

from collections.abc import Sequence

from torch import Tensor

from segkernel.reference.rows import compute_dtype
from segkernel.reference.token_logprobs import label_logprobs, per_valid, spread, valid_labels
from segkernel.types import TokenLogprobs


def linear_token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    entropy: bool = False,
    outputs: Sequence[str] | None = None,
) -> Tensor | tuple[Tensor, Tensor] | TokenLogprobs:
    valid = valid_labels(labels, mask, vocabulary=weight.shape[0])
    dtype = compute_dtype(hidden)
    logits = hidden[valid].to(dtype) @ weight.to(dtype).T  # [n, V]: only valid tokens are multiplied
    if bias is not None:
        logits = logits + bias.to(dtype)
    found = label_logprobs(logits, labels[valid], per_valid(temperature, valid), logit_scale, softcap)
    return spread(found, valid, entropy, outputs)
