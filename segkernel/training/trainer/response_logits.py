"""Logits that predict the response tokens of a batch, and log-probabilities from them.

They are packed, `[N, V]`: one row per response token, in the order of the batch's `response_mask`. Prompts and padding
have none.
"""

import torch.nn.functional as F
from torch import Tensor, nn

import segkernel
from segkernel.training.models.output_head import head_at
from segkernel.training.trainer.batches import Batch, model_logits, padded


def predicted(batch: Batch) -> Tensor:
    """Boolean `[rows, T]`: the response tokens, without one at the first position, which no logits predict."""
    return F.pad(batch["response_mask"].flatten(0, -2)[:, 1:], (1, 0))


def response_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits `[N, V]` that predict the response tokens of a batch `[B, T]` or `[B, 2, T]`.

    The model's head runs at no other position, if it can be chosen (`head_at`).
    """
    positions = F.pad(predicted(batch)[:, 1:], (0, 1))  # the logits at t - 1 predict the token at t
    with head_at(model, positions):
        logits = model_logits(model, batch)
    return logits[positions] if logits.shape[:2] == positions.shape else logits[0]


def at_predicted(values: Tensor, batch: Batch) -> Tensor:
    """Values of the predicted tokens, `[N]`, from those of all tokens, `[B, T]` or `[B, 2, T]`."""
    return values.flatten(0, -2)[predicted(batch)]


def logprobs_under(logits: Tensor, batch: Batch, mask: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Log-probabilities `[rows, T]` of the response tokens under a mask; 0 at other tokens.

    Args:
        logits: `[N, V]`, of `response_logits`.
        batch: the batch of the logits.
        mask: boolean, of the shape of the batch's `input_ids`.
        temperature: of the distributions.
    """
    labels, read = (at_predicted(values, batch) for values in (batch["input_ids"], mask))
    return padded(segkernel.token_logprobs(logits, labels, read, temperature=temperature), predicted(batch))


def logprobs_and_entropy(
    logits: Tensor, batch: Batch, mask: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """`logprobs_under`, and the entropies of the distributions that the tokens were drawn from, in nats."""
    labels, read = (at_predicted(values, batch) for values in (batch["input_ids"], mask))
    found = segkernel.token_logprobs(logits, labels, read, temperature=temperature, entropy=True)
    logprobs, entropy = (padded(values, predicted(batch)) for values in found)
    return logprobs, entropy


def response_logprobs(model: nn.Module, batch: Batch) -> Tensor:
    """Log-probabilities of a batch's response tokens under a model, `[rows, T]`, 0 at other tokens."""
    return logprobs_under(response_logits(model, batch), batch, batch["response_mask"])
