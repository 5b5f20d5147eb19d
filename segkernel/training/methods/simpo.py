"""SimPO (arXiv 2405.14734): preferences on mean log-probabilities, the baseline of `confpo` and `sepo`.

The loss of a pair compares the mean log-probabilities of its two responses' tokens; there is no reference model in it.
A row may carry `chosen_mask` and `rejected_mask` (bools over its response tokens); the means are then over those
tokens. A pair with a side without a token trains nothing.

As in `dpo`, the metrics `rewards/...` are implicit rewards of whole responses, `beta` times their log-ratios to the
model at the start of the run. `masked_rewards/...` are the rewards in the loss: `beta` times mean log-probabilities.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from torch import Tensor, nn

from segkernel import _validate
from segkernel.losses import simpo_loss
from segkernel.training.methods.dpo import response_metrics, reward_metrics
from segkernel.training.selection.pairs import drop_half_empty
from segkernel.training.trainer.base import Split
from segkernel.training.trainer.batches import Batch
from segkernel.training.trainer.preference import PreferenceConfig, PreferenceTrainer
from segkernel.training.trainer.reference import kept_and_whole_logprobs, with_reference
from segkernel.training.trainer.response_logits import response_logits


@dataclass
class SimPOConfig(PreferenceConfig):
    """Settings of `SimPOTrainer`."""

    learning_rate: float = field(default=2e-5, metadata={"help": "AdamW's peak learning rate."})
    beta: float = field(default=2.0, metadata={"help": "Scale of the difference of mean log-probabilities."})
    gamma: float = field(
        default=0.5, metadata={"help": "Margin by which the scaled difference is to exceed 0, at least 0."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.positive("beta", self.beta)
        _validate.weight("gamma", self.gamma)


class SimPOTrainer(PreferenceTrainer):
    """SimPO on preference pairs; variants select the tokens of the means.

    Args:
        ref_model: the reference of the metrics `rewards/...`; default: `model` as it is when the trainer is made.
        *args, **kwargs: arguments of `PreferenceTrainer`.
    """

    accuracy_metric = "rewards/accuracies"
    args: SimPOConfig

    def __init__(self, *args: Any, ref_model: nn.Module | None = None, **kwargs: Any) -> None:
        self.ref_model = ref_model
        super().__init__(*args, **kwargs)
        self.ref_model = None  # its log-probabilities are columns by now

    def prepare(self, dataset: Dataset, split: Split) -> Dataset:
        return with_reference(super().prepare(dataset, split), self.reference(), self.data_collator, self.args)

    def reference(self) -> nn.Module:
        """Reference model, while the data sets are prepared."""
        model: Any = self.model
        return model if self.ref_model is None else self.ref_model.to(self.args.device)

    def selected(self, logits: Tensor, batch: Batch) -> Tensor:
        """Boolean `[B, 2, T]`: tokens of the means; in SimPO those of the loss mask.

        `logits` `[N, V]` are the current policy's at the response tokens (`response_logits`).
        """
        return batch["loss_mask"]

    def pair_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits = response_logits(model, batch)
        mask = drop_half_empty(self.selected(logits.detach(), batch))
        kept, whole = kept_and_whole_logprobs(logits, {**batch, "loss_mask": mask})  # [B, 2] each
        tokens = mask.sum(-1)
        means = kept / tokens.clamp(min=1)
        losses = simpo_loss(means[:, 0], means[:, 1], beta=self.args.beta, gamma=self.args.gamma)
        rewards = self.args.beta * means.detach()
        metrics = response_metrics(batch, whole, tokens, self.args.beta)
        metrics |= reward_metrics("masked_rewards", rewards[:, 0], rewards[:, 1])
        return losses.masked_fill(tokens.sum(1) == 0, 0.0), metrics

    def read_tokens(self, batch: Batch, metrics: Mapping[str, Tensor]) -> Tensor:
        # A side without a token leaves the loss of its pair without a gradient.
        return (1 - metrics["empty_pairs"]).sum()
