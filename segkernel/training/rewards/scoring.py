"""What a reward model's scores of every prefix say: of a whole response, and of each of its tokens.

Batches are those of `ResponseCollator`, `[B, T]`, or of `PreferenceCollator`, `[B, 2, T]`; the sides of a pair are
rows of their own in what is returned.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import segkernel
from segkernel.training.models import ModelArguments, load_frozen_lm, load_scoring_model
from segkernel.training.rewards.calculations import CalculationScorer
from segkernel.training.trainer.batches import Batch, model_logits

# Scores of every prefix, `[B, T]`, read at the response's tokens and at the last token of the prompt.
PrefixScorer = Callable[[Batch], Tensor]


@dataclass
class RewardArguments:
    """Where the rewards of responses come from."""

    _argument_group_name = "rewards"

    reward_model: str | None = field(
        default=None,
        metadata={
            "help": "Directory of a reward model made with `segkernel train --method reward` (`segment-reward` for "
            "`segment-ppo` and `token-ppo`)."
        },
    )
    reward_policy: str | None = field(
        default=None,
        metadata={
            "help": "In place of a reward model: directory of a policy made with `segkernel train --method dpo`, for "
            "the reward that it implies against its reference, --model."
        },
    )
    reward_policy_beta: float = field(default=0.1, metadata={"help": "The beta that --reward_policy was trained with."})
    check_calculations: bool = field(
        default=False,
        metadata={
            "help": "In place of a reward model: +1 for every right calculation that a response annotates as in "
            "`<<48/2=24>>`, -1 for every wrong one."
        },
    )

    def given(self) -> list[str]:
        """What the rewards come from: one source, or none, or too many."""
        model = [self.reward_model] if self.reward_model else []
        policy = [f"policy {self.reward_policy}"] if self.reward_policy else []
        return [*model, *policy, *(["calculations"] if self.check_calculations else [])]

    def source(self) -> str:
        """The one source, for the record of the run.

        Raises:
            ValueError: there is none, or there are several.
        """
        given = self.given()
        if not given:
            raise ValueError(
                "reward_model: expected a directory (or --reward_policy DIR, or --check_calculations), got none"
            )
        if len(given) > 1:
            raise ValueError(f"reward_model: expected one source of rewards, got {' and '.join(given)}")
        return given[0]


def load_reward_source(
    arguments: RewardArguments, tokenizer: PreTrainedTokenizerBase, start: ModelArguments
) -> PreTrainedModel | PrefixScorer:
    """What scores the prefixes of responses; a model is refused when its tokens are not the policy's."""
    if arguments.reward_model is not None:
        return load_scoring_model(arguments.reward_model, tokenizer, start.dtype)
    if arguments.reward_policy is None:
        return CalculationScorer(tokenizer)
    if start.model is None:
        raise ValueError("model: expected the model that --reward_policy was trained from, got none (--model DIR)")
    policy = load_frozen_lm("reward_policy", arguments.reward_policy, tokenizer, start.dtype)
    reference = load_frozen_lm("model", start.model, tokenizer, start.dtype)
    return ImplicitRewardScorer(policy, reference, beta=arguments.reward_policy_beta)


def prefix_scorer(reward_model: nn.Module | PrefixScorer, device: torch.device) -> PrefixScorer:
    """A reward model as a function from batches to scores of every prefix; such a function as it is."""
    return RewardModelScorer(reward_model, device) if isinstance(reward_model, nn.Module) else reward_model


class RewardModelScorer:
    """Reads a frozen reward model (`segkernel train --method reward`) at every token."""

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
