"""What a reward model's scores of every prefix say: of a whole response, and of each of its tokens.

Batches are those of `ResponseCollator`, `[B, T]`, or of `PreferenceCollator`, `[B, 2, T]`; the sides of a pair are
rows of their own in what is returned.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import segkernel
from segkernel.models import load_scoring_model
from segkernel.trainers.calculations import CalculationScorer
from segkernel.trainers.common import model_logits

# Scores of every prefix, `[B, T]`, read at the response's tokens and at the last token of the prompt.
PrefixScorer = Callable[[dict[str, Tensor]], Tensor]


@dataclass
class RewardArguments:
    """Where the rewards of sampled responses come from."""

    _argument_group_name = "rewards"

    reward_model: str | None = field(
        default=None,
        metadata={
            "help": "Directory of a reward model made with `segkernel train --method reward` (`segment-reward` for "
            "`segment-ppo` and `token-ppo`)."
        },
    )
    check_calculations: bool = field(
        default=False,
        metadata={
            "help": "In place of a reward model: +1 for every right calculation that a response annotates as in "
            "`<<48/2=24>>`, -1 for every wrong one."
        },
    )

    def source(self) -> str:
        """What the rewards come from, for the record of the run.

        Raises:
            ValueError: there is no source, or there are two.
        """
        if self.check_calculations == (self.reward_model is not None):
            raise ValueError(
                "reward_model: expected none beside --check_calculations"
                if self.check_calculations
                else "reward_model: expected a directory (or --check_calculations), got none"
            )
        return self.reward_model or "calculations"


def load_reward_source(
    arguments: RewardArguments, tokenizer: PreTrainedTokenizerBase, dtype: str
) -> PreTrainedModel | PrefixScorer:
    """The reward model, refused when its tokens are not the policy's, or the checker of calculations."""
    if arguments.reward_model is None:
        return CalculationScorer(tokenizer)
    return load_scoring_model(arguments.reward_model, tokenizer, dtype)


class RewardModelScorer:
    """Reads a frozen reward model (`segkernel train --method reward`) at every token."""

    def __init__(self, model: nn.Module, device: Any) -> None:
        self.model = model.to(device).eval().requires_grad_(False)

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        return prefix_scores(self.model, batch)


def prefix_scores(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """The model's score of every prefix, `[B, T]`; meaningless at padding."""
    return model_logits(model, batch)[..., 0].float()


def sequence_scores(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The score of each whole response, `[B]`: at its last token."""
    mask = batch["response_mask"].flatten(0, -2)
    return scores.gather(1, last_position(mask)[:, None])[:, 0]


def prompt_scores(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The score of each prompt alone, `[B]`: at the token before the response."""
    mask = batch["response_mask"].flatten(0, -2)
    before = (mask.int().argmax(dim=1) - 1).clamp(min=0)
    return scores.gather(1, before[:, None])[:, 0]


def token_rewards(scores: Tensor, batch: dict[str, Tensor], kind: str) -> Tensor:
    """Token rewards `[B, T]`: the `prefix` scores, or their `difference` (R3HF, arXiv 2411.08302)."""
    if kind == "prefix":
        return scores
    mask = batch["response_mask"].flatten(0, -2)
    return segkernel.redistribute(scores, mask, initial=prompt_scores(scores, batch))


def finite_responses(scores: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """Whether every score that is read of a response is a number, `[B]`: those in it and that of its prompt."""
    mask = batch["response_mask"].flatten(0, -2)
    return (scores.isfinite() | ~(mask | mask.roll(-1, dims=1))).all(dim=1)


def last_position(mask: Tensor) -> Tensor:
    """Position of each row's last valid token, `[B]`; the last of all in a row without one."""
    return mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)
