"""PPO with the reward redistributed over the tokens: R3HF / RED (arXiv 2411.08302).

A token's reward is the change that it makes to the reward model's score, so the rewards of a response add up to its
score minus its prompt's; `mix` blends them with the sequence's reward at the last token.
"""

from dataclasses import dataclass, field

from torch import Tensor

import segkernel
from segkernel import _validate
from segkernel.training.methods.ppo import PPOConfig, PPOTrainer
from segkernel.training.rewards.prefix_scores import prompt_scores
from segkernel.training.trainer.batches import Batch


@dataclass
class R3HFPPOConfig(PPOConfig):
    """Settings of `R3HFPPOTrainer`."""

    mix: float = field(
        default=1.0,
        metadata={"help": "Weight of the redistributed rewards; the sequence's reward at the last token has 1 - mix."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.share("mix", self.mix)


class R3HFPPOTrainer(PPOTrainer):
    """PPO on redistributed rewards."""

    reads_every_prefix = True
    args: R3HFPPOConfig

    def token_rewards(self, batch: Batch) -> Tensor:
        return segkernel.redistribute(
            batch["scores"],
            batch["response_mask"],
            initial=prompt_scores(batch["scores"], batch),
            sequence_rewards=batch["sequence_rewards"],
            mix=self.args.mix,
        )
