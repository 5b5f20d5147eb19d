"""Scores of a reward model, less a penalty for malformed answers.

A reward model that adds up the violations of an answer prefers short answers, and a policy of PPO would end with
fragments. Rejection sampling accepts well-formed answers only; this is the same rule as a reward.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from benchmarks.experiments.constraints.answers import to_answers
from segkernel.training.models.response_tokens import ResponseTokens
from segkernel.training.rewards.prefix_scores import last_position
from segkernel.training.rewards.reward_model import prefix_scores
from segkernel.training.trainer.batches import Batch


def with_form_penalty(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, tokens: ResponseTokens, penalty: float
) -> Callable[[Batch], Tensor]:
    """Reward function of a batch `[B, T]`: the model's scores, lowered by `penalty` at the end of malformed answers."""
    model.eval().requires_grad_(False)

    def scores(batch: Batch) -> Tensor:
        found = prefix_scores(model, batch)
        mask = batch["response_mask"]
        responses = [ids[kept].tolist() for ids, kept in zip(batch["input_ids"], mask, strict=True)]
        malformed = [not answer.is_well_formed for answer in to_answers(tokenizer, tokens, responses)]
        lowered = penalty * torch.tensor(malformed, dtype=found.dtype, device=found.device)
        return found.scatter_add(1, last_position(mask)[:, None], -lowered[:, None])

    return scores
