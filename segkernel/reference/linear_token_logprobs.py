"""`token_logprobs` of `hidden @ weight.T + bias`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from segkernel.reference.rows import compute_dtype as wide
from segkernel.reference.token_logprobs import label_logprobs, per_valid, spread, valid_rows
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
    compute_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, Tensor] | TokenLogprobs:
    valid = valid_rows(labels, mask, hidden.new_empty(()).expand(*hidden.shape[:-1], weight.shape[0]))
    inputs = [hidden[valid], weight] if bias is None else [hidden[valid], weight, bias]  # only valid tokens
    rounded = (value.to(compute_dtype or hidden.dtype) for value in inputs)
    h, w, *b = (value.to(wide(value)) for value in rounded)
    logits = h @ w.T  # [n, V]
    if b:
        logits = logits + b[0]
    found = label_logprobs(logits, labels[valid], per_valid(temperature, valid), logit_scale, softcap)
    return spread(found, valid, entropy, outputs)
