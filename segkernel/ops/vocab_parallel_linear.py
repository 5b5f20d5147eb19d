"""`linear_token_logprobs` with an LM head whose rows are split among the processes of a group (tensor parallelism)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from segkernel import _tensors
from segkernel._enums import LOGPROB_OUTPUTS
from segkernel._head_tiles import Tiles
from segkernel._library import ops
from segkernel.ops.logprob_state import empty_sums, in_nats
from segkernel.ops.vocab_parallel_token_logprobs import gathered_results

ANY_LABEL = 2**62  # labels in other shards are valid


class _VocabParallelLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        mask: Tensor | None,
        token_temperature: Tensor | None,
        options: tuple[float, float, float | None],
        dtype: torch.dtype,
        entropy: bool,
        group: dist.ProcessGroup,
        first: int,
    ) -> tuple[Tensor, Tensor]:
        tiles = Tiles(hidden, weight, bias, labels, mask, token_temperature, dtype, first=first, vocabulary=ANY_LABEL)
        sums, label_y = empty_sums(tiles.labels)
        outputs = LOGPROB_OUTPUTS["entropies" if entropy else "logprobs"]
        for column, _, tile, _ in tiles:
            ops._linear_token_logprobs_fold_.default(
                sums, label_y, tile, tiles.labels, first + column, tiles.temperature, *options, outputs
            )
        state = in_nats(sums, label_y, tiles.labels, tiles.hidden, tiles.temperature, *options)
        found = gathered_results(state, tiles.labels, group)
        logprobs, entropies, lse = (tiles.spread(values, labels) for values in found)
        ctx.settings = (options, dtype, entropy, group, first)
        ctx.save_for_backward(hidden, weight, bias, labels, mask, token_temperature, entropies, lse)
        ctx.set_materialize_grads(False)
        output = _tensors.compute_dtype(tiles.hidden)
        return logprobs.to(output), entropies.to(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor | None, grad_entropies: Tensor | None) -> tuple[Tensor | None, ...]:
        options, dtype, entropy, group, first = ctx.settings
        hidden, weight, bias, labels, mask, token_temperature, entropies, lse = ctx.saved_tensors
        if not entropy:
            grad_entropies = None
        if grad_logprobs is None and grad_entropies is None:
            return (None,) * 11
        needed = ctx.needs_input_grad[:3]
        tiles = Tiles(hidden, weight, bias, labels, mask, token_temperature, dtype, first=first, vocabulary=ANY_LABEL)
        grads = tiles.gradients(grad_logprobs, grad_entropies, hidden, entropies, lse, options, needed)
        if needed[0]:
            # Every shard adds its part to the gradient of the hidden states.
            dist.all_reduce(grads[0], group=group)
        return *(grad if need else None for grad, need in zip(grads, needed, strict=True)), *(None,) * 8


# Log-probabilities and entropies `[...]` from this process's rows of the head; the arguments of `forward`, validated.
vocab_parallel_linear: Any = _VocabParallelLinear.apply
