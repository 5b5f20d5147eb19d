"""PPO on a random choice of tokens: the control of methods that select tokens or segments.

The policy loss is that of `ppo` on tokens that are chosen with a given probability, once per rollout, as a function of
the seed, the rollout and the response; the value loss is over all tokens.
"""

from dataclasses import dataclass

from torch import Tensor

from segkernel.training.methods.ppo import PPOConfig, PPOTrainer
from segkernel.training.selection.options import RandomOptions
from segkernel.training.selection.random_tokens import random_mask
from segkernel.training.trainer.batches import Batch


@dataclass
class RandomPPOConfig(RandomOptions, PPOConfig):
    """Settings of `RandomPPOTrainer`."""


class RandomPPOTrainer(PPOTrainer):
    """PPO whose policy loss covers random tokens. Its arguments are those of `PPOTrainer`."""

    args: RandomPPOConfig

    def policy_mask(self, batch: Batch) -> Tensor:
        mask = batch["response_mask"]
        return random_mask(mask, [self.args.share] * len(mask), self.args.piece_length, batch["keys"].tolist())
