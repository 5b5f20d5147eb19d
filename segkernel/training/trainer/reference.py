"""Reference models: the policy at the start of a run, and log-probabilities of pairs under a reference as columns."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from torch import Tensor, nn
from torch.func import functional_call

import segkernel
from segkernel.training.data.collators import PreferenceCollator
from segkernel.training.models.adapters import has_adapter
from segkernel.training.trainer.batches import Batch, Columns, map_batches
from segkernel.training.trainer.preference import PreferenceConfig
from segkernel.training.trainer.response_logits import at_predicted, predicted, response_logits


def start_of(policy: nn.Module) -> nn.Module:
    """Frozen reference: a policy as it is now, whatever it is trained to later.

    A policy with an adapter shares its frozen weights with the reference. The reference of a new adapter gives the
    logits of the model with the adapter switched off; that of an adapter which continues its training gives those of
    the adapter it starts from.
    """
    return StartOfAdapter(policy) if has_adapter(policy) else copy.deepcopy(policy)


class StartOfAdapter(nn.Module):
    """A policy with its trained weights replaced by copies of their first values.

    The policy is not a submodule: modes and devices set on the reference leave it as it is.
    """

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self._policy = (policy,)
        self._start = {
            name: parameter.detach().clone() for name, parameter in policy.named_parameters() if parameter.requires_grad
        }

    @property
    def module(self) -> nn.Module:
        """The policy, whose `forward` has the signature."""
        return self._policy[0]

    @torch.no_grad()
    def forward(self, **inputs: Any) -> Any:
        """Output of the policy at its start, in evaluation mode."""
        was_training = self.module.training
        self.module.eval()
        try:
            return functional_call(self.module, self._start, kwargs=inputs)
        finally:
            self.module.train(was_training)


def with_reference(
    pairs: Dataset, reference: nn.Module, collator: PreferenceCollator, args: PreferenceConfig
) -> Dataset:
    """Add `ref_logprobs` and `ref_response_logprobs`, `[chosen, rejected]`, to every pair."""
    was_training = reference.training
    reference.eval()

    def columns(batch: Batch) -> Columns:
        kept, whole = kept_and_whole_logprobs(response_logits(reference, batch), batch)
        return {"ref_logprobs": kept, "ref_response_logprobs": whole}

    pairs = map_batches(columns, pairs, collator, args, "reference log-probabilities")
    reference.train(was_training)
    return pairs


def kept_and_whole_logprobs(logits: Tensor, batch: Batch, *, whole_grad: bool = False) -> tuple[Tensor, Tensor]:
    """Log-probabilities of a batch's responses, summed under the loss mask and over all tokens: `[B, 2]` each.

    The sums under the loss mask carry a gradient, those over whole responses only with `whole_grad`. The former are
    weighted by the `token_weights` of the batch, if it has any; without weights every token is read once.
    """
    if "token_weights" in batch:
        weighted = summed_logprobs(logits, batch, batch["loss_mask"], batch["token_weights"])
        return weighted, summed_logprobs(logits if whole_grad else logits.detach(), batch, batch["response_mask"])
    kept = summed_logprobs(logits, batch, batch["loss_mask"])
    others = batch["response_mask"] & ~batch["loss_mask"]
    dropped = summed_logprobs(logits if whole_grad else logits.detach(), batch, others)
    return kept, (kept if whole_grad else kept.detach()) + dropped


def summed_logprobs(logits: Tensor, batch: Batch, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Log-probabilities of the response tokens under a mask `[B, 2, T]`, summed with these weights: `[B, 2]`.

    `logits` `[N, V]` are those of `response_logits`.
    """
    labels, read = (at_predicted(values, batch) for values in (batch["input_ids"], mask))
    if weights is not None:
        weights = at_predicted(weights, batch)
    rows = F.pad(predicted(batch).sum(1).cumsum(0), (1, 0))
    return segkernel.sequence_logprobs(logits, labels, read, weights=weights, cu_seqlens=rows).view(-1, 2)
