"""Summed log-probabilities of pairs, and those of a frozen reference model as columns."""

from datasets import Dataset
from torch import Tensor, nn

import segkernel
from segkernel.training.data.collators import PreferenceCollator
from segkernel.training.trainer.batches import Batch, Columns, map_batches, model_logits
from segkernel.training.trainer.preference import PreferenceConfig


def with_reference(
    pairs: Dataset, reference: nn.Module, collator: PreferenceCollator, args: PreferenceConfig
) -> Dataset:
    """Add `ref_logprobs` and `ref_response_logprobs`, `[chosen, rejected]`, to every pair."""
    was_training = reference.training
    reference.eval()

    def columns(batch: Batch) -> Columns:
        logits = model_logits(reference, batch)
        return {
            "ref_logprobs": summed_logprobs(logits, batch, "loss_mask"),
            "ref_response_logprobs": summed_logprobs(logits, batch, "response_mask"),
        }

    pairs = map_batches(columns, pairs, collator, args, "reference log-probabilities")
    reference.train(was_training)
    return pairs


def summed_logprobs(logits: Tensor, batch: Batch, mask: str) -> Tensor:
    """Log-probabilities of a batch's tokens, summed under one of its masks: `[B, 2]`.

    `logits` is `[2 * B, T, V]`; those at `t - 1`, read in place, predict the token at `t`.
    """
    labels, chosen_tokens = (batch[name].flatten(0, 1)[:, 1:] for name in ("input_ids", mask))
    return segkernel.sequence_logprobs(logits[:, :-1], labels, chosen_tokens).view(-1, 2)
