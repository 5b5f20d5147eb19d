"""Label log-probabilities from logits whose vocabulary is split among the processes of a group (tensor parallelism)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from segkernel import _tensors, _validate
from segkernel._debug import checks_values
from segkernel._inplace_backward import overwrites, overwritten
from segkernel._library import ops
from segkernel.ops.logprob_state import finished, ignored_where_masked, merge_logprob_states, shard_state
from segkernel.ops.token_logprobs import check_labels, check_logits, logit_options, per_token


def vocab_parallel_token_logprobs(
    logits: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    group: dist.ProcessGroup | None = None,
    first: int | None = None,
    temperature: float | Tensor = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    entropy: bool = False,
    inplace_backward: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`token_logprobs` of logits whose columns are split among the processes of `group`.

    Every process reads its own columns, then one all-gather exchanges four float64 per token; logits are not exchanged.
    All processes get the same bits. As in Megatron-LM, every process computes the same loss from them, and the gradient
    reaches its own columns without communication.

    Args:
        logits: `[..., V_shard]`, this process's columns; as in `token_logprobs`. Shards may have different widths.
        labels: `[...]`, integer, in the whole vocabulary, equal in all processes. -100 masks.
        mask: `[...]`, bool or numeric, nonzero is valid, equal in all processes; None means all valid.
        group: the processes that share the vocabulary; None means all.
        first: index of the first column. None means that the shards follow each other in the order of the ranks; their
            widths are then exchanged, which costs one int64 per process and waits for the device. Megatron's shards of
            equal width begin at `rank * width`.
        temperature, logit_scale, softcap, entropy, inplace_backward: as in `token_logprobs`.

    Returns:
        As `token_logprobs`.

    Raises:
        TypeError, ValueError: as `token_logprobs`, and a negative `first`.
        IndexError: a label at a valid position that is in no shard, in all processes. On CUDA only under
            `segkernel.debug()`: otherwise outputs and gradient are NaN there.
        RuntimeError: the process group is not initialized.

    Gradients of both outputs are exact; second derivatives raise RuntimeError.

    Example:
        >>> import torch, segkernel
        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> logits = torch.tensor([[0.0, 0.0], [1.0, 3.0]])
        >>> segkernel.vocab_parallel_token_logprobs(logits, torch.tensor([1, -100]))
        tensor([-0.6931,  0.0000])
        >>> dist.destroy_process_group()
    """
    check_logits(logits)
    labels, mask = check_labels(labels, mask, "logits[..., 0]", logits, logits.shape[:-1])
    temperature, token_temperature = per_token("temperature", temperature, labels, mask)
    options = logit_options(temperature, logit_scale, softcap)
    _validate.boolean("entropy", entropy)
    inplace = overwrites(inplace_backward, logits)
    first = first_column(first, logits.shape[-1], logits.device, group)
    labels = ignored_where_masked(labels, mask)
    arguments = (token_temperature, *options)
    logprobs: Tensor
    logprobs, entropies = _apply(logits, labels, first, group, entropy, inplace, arguments)
    return (logprobs, entropies) if entropy else logprobs


def all_gather(gathered: Tensor, mine: Tensor, group: dist.ProcessGroup | None) -> None:
    """Concatenate `mine` of all processes along the first dimension."""
    # Renamed in torch 2.13.
    gather: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather(gathered, mine, group=group)


def first_column(first: int | None, columns: int, device: torch.device, group: dist.ProcessGroup | None) -> int:
    """Index of this process's first column: `first`, or the sum of the widths of the shards of lower ranks.

    Raises:
        TypeError, ValueError: `first` is no integer, or negative.
        RuntimeError: the process group is not initialized.
    """
    if first is not None:
        _validate.integer("first", first, at_least=0)
    if not dist.is_initialized():
        raise RuntimeError("group: expected an initialized process group; call torch.distributed.init_process_group")
    if first is not None:
        return first
    width = torch.tensor([columns], device=device)
    widths = width.new_empty(dist.get_world_size(group))
    all_gather(widths, width, group)
    return int(widths[: dist.get_rank(group)].sum())


def gathered_results(state: Tensor, labels: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, entropies and `log sum exp(z)` over all shards, float64, from this process's state."""
    states = state.new_empty(dist.get_world_size(group), *state.shape)
    all_gather(states.view(-1, *state.shape[1:]), state, group)
    merged = merge_logprob_states(states)
    if not state.is_cuda or checks_values():
        _labels_found(merged, labels)
    return finished(merged)


def _labels_found(state: Tensor, labels: Tensor) -> None:
    missing = state[..., 3].isnan() & ~state[..., 1].isnan()
    for position in missing.nonzero().tolist():
        label = labels[tuple(position)].item()
        raise IndexError(f"labels: expected a label in one of the group's shards, got {label} at {position}")


class _VocabParallel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        first: int,
        group: dist.ProcessGroup | None,
        want_entropy: bool,
        inplace: bool,
        options: tuple[Tensor | None, float, float, float | None],
    ) -> tuple[Tensor, Tensor]:
        state = shard_state(logits, labels, first, *options, want_weighted=want_entropy)
        logprobs, entropies, lse = gathered_results(state, labels, group)
        ctx.first, ctx.options, ctx.want_entropy, ctx.inplace = first, options, want_entropy, inplace
        ctx.save_for_backward(logits, labels, entropies, lse)
        ctx.set_materialize_grads(False)
        dtype = _tensors.compute_dtype(logits)
        return logprobs.to(dtype), entropies.to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor | None, grad_entropies: Tensor | None) -> tuple[Tensor | None, ...]:
        if not ctx.want_entropy:
            grad_entropies = None
        if grad_logprobs is None and grad_entropies is None:
            return (None,) * 7
        logits, labels, entropies, lse = ctx.saved_tensors
        token_temperature, *scalars = ctx.options
        upstream = (None if given is None else given.double().contiguous() for given in (grad_logprobs, grad_entropies))
        copied = None if ctx.inplace else logits.detach().clone(memory_format=torch.contiguous_format)
        with overwritten(logits) if copied is None else nullcontext(copied) as grad:
            ops._linear_token_logprobs_gradient_.default(
                grad, labels, ctx.first, *upstream, entropies, lse, token_temperature, *scalars
            )
        return grad, *(None,) * 6


_apply: Any = _VocabParallel.apply
