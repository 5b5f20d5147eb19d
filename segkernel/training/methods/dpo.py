"""DPO on whole responses (arXiv 2305.18290), the baseline of segment-masked DPO.

A row may carry `chosen_mask` and `rejected_mask` (bools over its response tokens); the loss then reads the
log-probabilities of those tokens only. Without masks every response token counts.

With `rpo_alpha` the negative log-likelihood of the whole chosen response is added, with any mask (Pang et al. 2024,
arXiv 2404.19733). `rejected_weight` scales the rejected response's reward in the loss.

The metrics `rewards/...` are implicit rewards of whole responses, `beta` times their log-ratios, so they compare
methods with different masks; `masked_rewards/...`, logged if there are masks, are those of the tokens that the loss
reads.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from torch import Tensor, nn
from transformers import EvalPrediction

from segkernel import _validate
from segkernel.losses import dpo_loss
from segkernel.training.data.columns import SIDES
from segkernel.training.trainer.base import Split
from segkernel.training.trainer.batches import Batch
from segkernel.training.trainer.preference import PreferenceConfig, PreferenceTrainer
from segkernel.training.trainer.reference import kept_and_whole_logprobs, with_reference
from segkernel.training.trainer.response_logits import response_logits

logger = logging.getLogger(__name__)


@dataclass
class DPOConfig(PreferenceConfig):
    """Settings of `DPOTrainer`."""

    learning_rate: float = field(default=2e-5, metadata={"help": "AdamW's peak learning rate."})
    beta: float = field(default=0.1, metadata={"help": "DPO's beta: strength of the pull toward the reference model."})
    rpo_alpha: float = field(
        default=0.0,
        metadata={
            "help": "Weight of an anchor on the chosen response: the mean negative log-likelihood of its tokens, with "
            "or without a loss mask, is added to the loss of the pair."
        },
    )
    rejected_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of the rejected response's log-ratio in the loss. 1 is DPO; below 1 it is suppressed less, "
            "and 0 only raises the chosen response."
        },
    )
    reverse: bool = field(
        default=False,
        metadata={
            "help": "Prefer the rejected response: the loss with its sides exchanged. This makes the reverse model "
            "that `aligndistil` takes. Metrics name the sides as the data does."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.positive("beta", self.beta)
        for name in ("rpo_alpha", "rejected_weight"):
            _validate.weight(name, getattr(self, name))


class DPOTrainer(PreferenceTrainer):
    """DPO with the reference model's log-probabilities computed once, before training.

    Args:
        ref_model: the reference; default: `model` as it is when the trainer is made.
        *args, **kwargs: arguments of `PreferenceTrainer`.
    """

    accuracy_metric = "rewards/accuracies"
    args: DPOConfig

    def __init__(self, *args: Any, ref_model: nn.Module | None = None, **kwargs: Any) -> None:
        self.ref_model = ref_model
        self.masked = False  # whether the data has loss masks
        self.warned = False  # whether this run has logged that the masks decide the accuracy
        super().__init__(*args, **kwargs)
        self.ref_model = None  # its log-probabilities are columns by now

    def prepare(self, dataset: Dataset, split: Split) -> Dataset:
        self.masked |= any(f"{side}_mask" in dataset.column_names for side in SIDES)
        model: Any = self.model
        reference = model if self.ref_model is None else self.ref_model.to(self.args.device)
        return with_reference(super().prepare(dataset, split), reference, self.data_collator, self.args)

    def pair_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        anchored = self.args.rpo_alpha > 0
        logits = response_logits(model, batch)
        kept, whole = kept_and_whole_logprobs(logits, batch, whole_grad=anchored)  # [B, 2] each
        reference = batch["ref_logprobs"]
        first, second = (1, 0) if self.args.reverse else (0, 1)
        losses, *masked_rewards = dpo_loss(
            kept[:, first],
            kept[:, second],
            reference[:, first],
            reference[:, second],
            beta=self.args.beta,
            rejected_weight=self.args.rejected_weight,
        )
        nll = -whole[:, first] / batch["response_mask"][:, first].sum(-1)
        tokens = batch["loss_mask"].sum(-1)  # [B, 2]
        metrics = response_metrics(batch, whole.detach(), tokens, self.args.beta)
        if self.masked:
            metrics |= reward_metrics("masked_rewards", masked_rewards[first], masked_rewards[second])
        # A pair with an empty loss mask has two log-ratios of 0 and no gradient; its DPO loss does not count either.
        empty = tokens.sum(1) == 0
        losses = losses.masked_fill(empty, 0.0)
        if anchored:
            losses = losses + self.args.rpo_alpha * nll
            metrics["nll_loss"] = nll.detach()
        return losses, metrics

    def mean_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        means = super().mean_metrics(prediction)
        masked, whole = means.get("masked_rewards/accuracies", 0.0), means["rewards/accuracies"]
        if masked > 0.9 and whole < 0.6 and not self.warned:
            self.warned = True
            logger.warning(
                "evaluation: %.0f %% of the held-out pairs are ranked right under the loss mask, but %.0f %% as whole "
                "responses: the margin under the mask measures the mask, not the policy",
                100 * masked,
                100 * whole,
            )
        return means

    def read_tokens(self, batch: Batch, metrics: Mapping[str, Tensor]) -> Tensor:
        return batch["response_mask"].sum() if self.args.rpo_alpha > 0 else super().read_tokens(batch, metrics)


def response_metrics(batch: Batch, logprobs: Tensor, tokens: Tensor, beta: float) -> dict[str, Tensor]:
    """Metrics of pairs that do not depend on the loss: implicit rewards of whole responses, and shares of tokens.

    Args:
        batch: pairs with `ref_response_logprobs`.
        logprobs: `[B, 2]`, log-probabilities of whole responses under the policy.
        tokens: `[B, 2]`, numbers of tokens that the loss reads.
        beta: scale of the rewards.
    """
    rewards = beta * (logprobs - batch["ref_response_logprobs"])
    share = tokens / batch["response_mask"].sum(-1)
    return {
        **reward_metrics("rewards", rewards[:, 0], rewards[:, 1]),
        "logps/chosen": logprobs[:, 0],
        "logps/rejected": logprobs[:, 1],
        "kept_chosen": share[:, 0],
        "kept_rejected": share[:, 1],
        "empty_pairs": (tokens.sum(1) == 0).float(),
    }


def reward_metrics(name: str, chosen: Tensor, rejected: Tensor) -> dict[str, Tensor]:
    """Implicit rewards of pairs, `[B]` each, with their accuracy and margin, under names `<name>/...`."""
    return {
        f"{name}/chosen": chosen,
        f"{name}/rejected": rejected,
        f"{name}/accuracies": (chosen > rejected).float(),
        f"{name}/margins": chosen - rejected,
    }
