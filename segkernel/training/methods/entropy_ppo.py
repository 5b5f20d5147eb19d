"""PPO on the tokens of high entropy: the 80/20 rule (arXiv 2506.01939).

Rewards, advantages and values are those of `PPOTrainer`. At every update the policy loss covers only the response
tokens of the micro-batch at which the current policy's entropy is largest: `ceil(fraction * n)` of `n`.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from segkernel.training.methods.ppo import PPOConfig, PPOTrainer
from segkernel.training.selection.batch_share import largest_share, share_count
from segkernel.training.selection.options import check_share
from segkernel.training.trainer.base import Items
from segkernel.training.trainer.batches import Batch
from segkernel.training.trainer.response_logits import logprobs_and_entropy


@dataclass
class EntropyPPOConfig(PPOConfig):
    """Settings of `EntropyPPOTrainer`."""

    fraction: float = field(
        default=0.2,
        metadata={"help": "Share of a micro-batch's response tokens in the policy loss: those of the largest entropy."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("fraction", self.fraction)


class EntropyPPOTrainer(PPOTrainer):
    """PPO whose policy loss covers the tokens of the largest entropy. Its arguments are those of `PPOTrainer`."""

    args: EntropyPPOConfig

    def trained_tokens(self, logits: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            _, entropy = logprobs_and_entropy(logits, batch, batch["policy_mask"], temperature=self.args.temperature)
        return largest_share(entropy, batch["policy_mask"], self.args.fraction)

    def items(self, batch: Batch) -> Items:
        return {**super().items(batch), "policy": share_count(batch["policy_mask"], self.args.fraction)}
