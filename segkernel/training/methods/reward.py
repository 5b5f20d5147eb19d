"""Reward model: Bradley-Terry on whole responses, read at every token.

The score of a sequence is the head's output at its last response token. Since the model is causal, its output at
any earlier token is the score of that prefix, which is what token rewards are made of (arXiv 2411.00809, 2411.08302).
"""

from dataclasses import dataclass, field

from torch import Tensor, nn

from segkernel.losses import bradley_terry_loss
from segkernel.training.rewards.prefix_scores import sequence_scores
from segkernel.training.rewards.reward_model import prefix_scores
from segkernel.training.trainer.batches import Batch
from segkernel.training.trainer.preference import PreferenceConfig, PreferenceTrainer


@dataclass
class RewardConfig(PreferenceConfig):
    """Settings of `RewardTrainer`."""

    learning_rate: float = field(default=1e-4, metadata={"help": "AdamW's peak learning rate."})


class RewardTrainer(PreferenceTrainer):
    """Trains a model with one output per token (`num_labels=1`) to score `chosen` above `rejected`."""

    accuracy_metric = "accuracy"

    def pair_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        scores = prefix_scores(model, batch)  # [2 * B, T]
        chosen, rejected = sequence_scores(scores, batch).view(-1, 2).unbind(1)
        return bradley_terry_loss(chosen, rejected), {
            "accuracy": (chosen > rejected).float(),
            "scores/chosen": chosen,
            "scores/rejected": rejected,
            "scores/margin": chosen - rejected,
        }
