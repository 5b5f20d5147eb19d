"""Log-probabilities over a vocabulary that is split by columns: the state of a shard, and the merge of states."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from segkernel import _tensors, _validate
from segkernel._enums import LOGPROB_OUTPUTS
from segkernel._library import ops
from segkernel.ops.token_logprobs import check_labels, check_logits, logit_options, per_token


def logprob_state(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    first: int = 0,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Tensor:
    """State of every row over one shard of the vocabulary, from one read of its logits.

    With `z` as in `token_logprobs`, the state of a row is `(m, s, w, z[label])`: a reference `m` close to the largest
    `z`, `s = sum exp(z - m)`, `w = sum exp(z - m) (z - m)`, as in online softmax (Milakov and Gimelshein 2018).
    `z[label]` is NaN if the label is in another shard. States of masked rows are 0.

    Args:
        logits: `[..., V_shard]`, columns `first, first + 1, ...` of the vocabulary; as in `token_logprobs`.
        labels: `[...]`, integer, in the whole vocabulary. -100 masks.
        mask: `[...]`, bool or numeric, nonzero is valid; None means all valid.
        first: index of the shard's first column, `>= 0`.
        temperature, logit_scale, softcap: as in `token_logprobs`.

    Returns:
        `[..., 4]`, float64.

    Raises:
        TypeError, ValueError: as `token_logprobs`, and a negative `first`.

    Takes no gradient; `vocab_parallel_token_logprobs` has one.

    Example:
        >>> import torch, segkernel
        >>> logits, labels = torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.tensor([2])
        >>> shards = [segkernel.logprob_state(logits[:, i : i + 2], labels, first=i) for i in (0, 2)]
        >>> logprobs, entropies = segkernel.finish_logprobs(segkernel.merge_logprob_states(torch.stack(shards)))
        >>> torch.allclose(logprobs, segkernel.token_logprobs(logits, labels))
        True
    """
    check_logits(logits)
    labels, mask = check_labels(labels, mask, "logits[..., 0]", logits, logits.shape[:-1])
    _validate.integer("first", first, at_least=0)
    temperature, token_temperature = per_token("temperature", temperature, labels, mask)
    options = logit_options(temperature, logit_scale, softcap)
    labels = ignored_where_masked(labels, mask)
    return shard_state(logits.detach(), labels, first, token_temperature, *options, want_weighted=True)


def merge_logprob_states(states: Tensor) -> Tensor:
    """State over the whole vocabulary.

    Args:
        states: `[S, ..., 4]`, float64, the states of `S` shards from `logprob_state`.

    Returns:
        `[..., 4]`, float64.

    Raises:
        TypeError: not float64.
        ValueError: another shape.

    Example:
        >>> import torch, segkernel
        >>> states = torch.tensor([[[0.0, 1.0, 0.0, 0.0]], [[0.0, 3.0, 0.0, float("nan")]]], dtype=torch.float64)
        >>> segkernel.merge_logprob_states(states)
        tensor([[0., 4., 0., 0.]], dtype=torch.float64)
    """
    _check_states("states", states, "[S, ..., 4]", 2)
    maximum, total, weighted, label = states.unbind(-1)
    largest = maximum.amax(0)
    # A shard of -inf only has the maximum -inf; if all shards have, the difference would be NaN.
    shift = torch.where(maximum == -torch.inf, -torch.inf, maximum - largest)
    scale = shift.exp()
    # 0 for a shard of -inf only, whose shift would give 0 * -inf = NaN.
    moved = torch.where(scale == 0, 0.0, scale * shift)
    found = ~label.isnan()
    return torch.stack(
        [
            largest,
            (scale * total).sum(0),
            (scale * weighted + moved * total).sum(0),
            torch.where(found.any(0), torch.where(found, label, 0.0).sum(0), torch.nan),
        ],
        dim=-1,
    )


def finish_logprobs(state: Tensor, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Label log-probabilities and entropies, in nats, from the state over the whole vocabulary.

    Args:
        state: `[..., 4]`, float64, from `merge_logprob_states`.
        dtype: of the outputs.

    Returns:
        Log-probabilities and entropies `[...]`; 0 at masked positions, NaN where no shard had the label.

    Raises:
        TypeError: not float64.
        ValueError: another shape.

    Example:
        >>> import torch, segkernel
        >>> state = segkernel.logprob_state(torch.zeros(1, 8), torch.tensor([3]))
        >>> segkernel.finish_logprobs(state)
        (tensor([-2.0794]), tensor([2.0794]))
    """
    _check_states("state", state, "[..., 4]", 1)
    logprobs, entropies, _ = finished(state)
    return logprobs.to(dtype), entropies.to(dtype)


def ignored_where_masked(labels: Tensor, mask: Tensor | None) -> Tensor:
    """Labels with -100 at masked positions."""
    return labels if mask is None else torch.where(mask, labels, -100)


def shard_state(
    logits: Tensor,
    labels: Tensor,
    first: int,
    token_temperature: Tensor | None,
    logit_scale: float,
    temperature: float,
    softcap: float | None,
    *,
    want_weighted: bool,
) -> Tensor:
    """`logprob_state` of validated arguments; without `want_weighted`, `w` is 0."""
    sums, label_y = empty_sums(labels)
    options = (token_temperature, logit_scale, temperature, softcap)
    outputs = LOGPROB_OUTPUTS["entropies" if want_weighted else "logprobs"]
    ops._linear_token_logprobs_fold_.default(sums, label_y, logits, labels, first, *options, outputs)
    return in_nats(sums, label_y, labels, logits, *options)


def empty_sums(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The kernels' state before any column is read: sums `[..., 7]` and the label's logit `[...]`."""
    # RowSums in csrc/ops/token_logprobs/token_logprobs.h: maximum, sum, weighted sum, and four that stay as they are.
    empty = [-torch.inf, 0.0, 0.0, 0.0, 0.0, -torch.inf, 0.0]
    sums = torch.tensor(empty, dtype=torch.float64, device=labels.device).expand(*labels.shape, 7).clone()
    return sums, torch.full(labels.shape, torch.nan, dtype=torch.float64, device=labels.device)


def in_nats(
    sums: Tensor,
    label_y: Tensor,
    labels: Tensor,
    like: Tensor,
    token_temperature: Tensor | None,
    logit_scale: float,
    temperature: float,
    softcap: float | None,
) -> Tensor:
    """State of `logprob_state`, in nats and in units of `z`, from the kernels' state, in base 2 and in units of `y`.

    `csrc/ops/token_logprobs/token_logprobs.h` defines the latter and the factor from `y` to `z`, which is rounded to
    the compute dtype of `like`, the logits.
    """
    temperatures = torch.tensor(temperature, dtype=torch.float64) if token_temperature is None else token_temperature
    factor = (logit_scale if softcap is None else softcap) / temperatures * math.log2(math.e)
    factor = factor.to(_tensors.compute_dtype(like)).double() * math.log(2)
    maximum, total, weighted, *_ = sums.unbind(-1)
    nats = torch.stack([maximum * factor, total, weighted * math.log(2), label_y * factor], dim=-1)
    return nats.masked_fill_((labels == -100).unsqueeze(-1), 0.0)


def finished(state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies and `log sum exp(z)`, float64."""
    maximum, total, weighted, label = state.unbind(-1)
    log_total = total.log()
    logsumexp = maximum + log_total
    entropies = torch.where(label.isnan(), torch.nan, log_total - weighted / total)
    masked = (maximum == 0) & (total == 0)  # a valid row has a positive sum, or the maximum -inf
    results = (label - logsumexp, entropies, logsumexp)
    logprobs, entropies, logsumexp = (torch.where(masked, 0.0, result) for result in results)
    return logprobs, entropies, logsumexp


def _check_states(name: str, value: Tensor, shape: str, dims: int) -> None:
    _tensors.tensor(name, value, frozenset({torch.float64}), "float64")
    if value.dim() < dims or value.shape[-1] != 4:
        raise ValueError(f"{name}: expected {shape}, got {_validate.describe(value)}")
