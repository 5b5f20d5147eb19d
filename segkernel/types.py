"""Result and option types of the public functions."""

from __future__ import annotations

from typing import NamedTuple, TypedDict

from torch import Tensor


class Segments(NamedTuple):
    """Result of `segment`.

    `S = max_segments or T`. Segments past `S` are left out of the `[B, S]` fields but counted in `counts`.
    Packed: segment `k` of row `b` is at index `cu_seqlens[b] + k`.

    | field | padded | packed | meaning |
    | --- | --- | --- | --- |
    | `ids` | int32 `[B, T]` | int32 `[N]` | 0-based index of the token's segment in its row; -1 at masked |
    | `counts` | int32 `[B]` | int32 `[B]` | number of segments in the row |
    | `lengths` | int32 `[B, S]` | int32 `[N]` | valid tokens per segment, 0 past `counts` |
    | `rewards` | float32 `[B, S]` | float32 `[N]` | reduced reward per segment, 0 past `counts` |
    | `signs` | int8 `[B, S]` | int8 `[N]` | its tokens' state (`delta`), else `sign(reward - baseline)` |
    | `mask` | bool `[B, T]` | bool `[N]` | loss mask, or `None` when no `sequence_sign` was given |
    """

    ids: Tensor
    counts: Tensor
    lengths: Tensor
    rewards: Tensor
    signs: Tensor
    mask: Tensor | None


class TokenDivergences(NamedTuple):
    """Result of `token_divergences`: tensors `[...]`, float32, or float64 for float64 logits, in nats.

    `logits` gives the distribution `p`, and `other_logits` gives `q`.

    | field | meaning | gradient |
    | --- | --- | --- |
    | `divergence` | divergence of `p` and `q` | to `logits` |
    | `entropy` | entropy of `p` | to `logits` |
    | `other_entropy` | entropy of `q` | none |
    | `logprobs` | `log p[label]`, or None without labels | to `logits` |
    | `other_logprobs` | `log q[label]`, or None without labels | none |
    """

    divergence: Tensor
    entropy: Tensor
    other_entropy: Tensor
    logprobs: Tensor | None
    other_logprobs: Tensor | None


class TokenLogprobs(NamedTuple):
    """Result of `token_logprobs` and `linear_token_logprobs` with `outputs`; fields not named there are None.

    Statistics of `p = softmax(z)` over the vocabulary, `[...]`; `logprobs` and `is_argmax` in the shape of `labels`.
    float32, or float64 for float64 logits. 0 or False at masked positions; NaN or False in a row that is no
    distribution.

    | field | meaning |
    | --- | --- |
    | `logprobs` | `log p[label]`; differentiable |
    | `entropy` | entropy of `p`, in nats; differentiable |
    | `sum_squares` | sum of `p[v]^2`: the probability that two samples agree |
    | `mean_logit` | mean of `z[v]` over the vocabulary |
    | `is_argmax` | bool: whether the label is the argmax of `z`, the first of equal maxima |
    """

    logprobs: Tensor
    entropy: Tensor | None = None
    sum_squares: Tensor | None = None
    mean_logit: Tensor | None = None
    is_argmax: Tensor | None = None


class LogitOptions(TypedDict, total=False):
    """Options that map logits to the distribution `softmax(z)`, in the overloads of the log-prob functions."""

    temperature: float | Tensor
    logit_scale: float
    softcap: float | None
