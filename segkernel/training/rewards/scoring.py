"""What a reward model's scores of every prefix say: of a whole response, and of each of its tokens.

Batches are those of `ResponseCollator`, `[B, T]`, or of `PreferenceCollator`, `[B, 2, T]`; the sides of a pair are
rows of their own in what is returned.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import segkernel
from segkernel.training.trainer.batches import Batch, model_logits

# Scores of every prefix, `[B, T]`, read at the response's tokens and at the last token of the prompt.
PrefixScorer = Callable[[Batch], Tensor]


def prefix_scorer(reward_model: nn.Module | PrefixScorer, device: torch.device) -> PrefixScorer:
    """A reward model as a function from batches to scores of every prefix; such a function as it is."""
    return RewardModelScorer(reward_model, device) if isinstance(reward_model, nn.Module) else reward_model


class RewardModelScorer:
    """Reads a frozen reward model (`segkernel train reward`) at every token."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self.model = model.to(device).eval().requires_grad_(False)

    def __call__(self, batch: Batch) -> Tensor:
        return prefix_scores(self.model, batch)


class ImplicitRewardScorer:
    """The reward that a policy trained by DPO implies against its reference.

    A token's is `beta * (log pi - log pi_ref)` (Rafailov et al. 2024, arXiv 2404.12358), a prefix's their sum so far.
    """

    def __init__(self, policy: nn.Module, reference: nn.Module, *, beta: float = 0.1) -> None:
        if not beta > 0:
            raise ValueError(f"reward_policy_beta: expected a positive number, got {beta}")
        self.policy, self.reference = (model.eval().requires_grad_(False) for model in (policy, reference))
        self.beta = beta

    def __call__(self, batch: Batch) -> Tensor:
        labels, mask = (batch[name].flatten(0, -2)[:, 1:] for name in ("input_ids", "response_mask"))
        policy, reference = (
            segkernel.token_logprobs(model_logits(model.to(labels.device), batch)[:, :-1], labels, mask)
            for model in (self.policy, self.reference)
        )
        return F.pad(self.beta * (policy - reference).cumsum(1), (1, 0))


def prefix_scores(model: nn.Module, batch: Batch) -> Tensor:
    """The model's score of every prefix, `[B, T]`; meaningless at padding."""
    return model_logits(model, batch)[..., 0].float()


def sequence_scores(scores: Tensor, batch: Batch) -> Tensor:
    """The score of each whole response, `[B]`: at its last token."""
    mask = batch["response_mask"].flatten(0, -2)
    return scores.gather(1, last_position(mask)[:, None])[:, 0]


def prompt_scores(scores: Tensor, batch: Batch) -> Tensor:
    """The score of each prompt alone, `[B]`: at the token before the response."""
    mask = batch["response_mask"].flatten(0, -2)
    before = (mask.int().argmax(dim=1) - 1).clamp(min=0)
    return scores.gather(1, before[:, None])[:, 0]


def token_rewards(scores: Tensor, batch: Batch, kind: str) -> Tensor:
    """Token rewards `[B, T]`: the `prefix` scores, or their `difference` (R3HF, arXiv 2411.08302)."""
    if kind == "prefix":
        return scores
    mask = batch["response_mask"].flatten(0, -2)
    return segkernel.redistribute(scores, mask, initial=prompt_scores(scores, batch))


def finite_responses(scores: Tensor, batch: Batch) -> Tensor:
    """Whether every score that is read of a response is a number, `[B]`: those in it and that of its prompt."""
    mask = batch["response_mask"].flatten(0, -2)
    return (scores.isfinite() | ~(mask | mask.roll(-1, dims=1))).all(dim=1)


def last_position(mask: Tensor) -> Tensor:
    """Position of each row's last valid token, `[B]`; the last of all in a row without one."""
    return mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)
