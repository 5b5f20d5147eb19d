"""DPO on whole responses: the baseline of segment-masked DPO, and all of it but the mask.

A row may carry `chosen_mask` and `rejected_mask` (bools over its response tokens); the loss then sees the
log-probabilities of those tokens only. Plain DPO's rows carry none, so every response token counts.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import segkernel
from segkernel.losses import dpo_loss
from segkernel.training.data.collators import PreferenceCollator
from segkernel.training.trainer.batches import Batch, Rows, map_batches, model_logits
from segkernel.training.trainer.preference import PreferenceConfig, PreferenceTrainer


@dataclass
class DPOConfig(PreferenceConfig):
    """Settings of `DPOTrainer`."""

    learning_rate: float = field(default=2e-5, metadata={"help": "AdamW's peak learning rate."})
    beta: float = field(default=0.1, metadata={"help": "DPO's beta: the pull towards the reference model."})
    reverse: bool = field(
        default=False,
        metadata={
            "help": "Prefer the rejected response, by the loss with its sides exchanged: this makes the reverse model "
            "that `aligndistil` takes. Metrics go on naming the sides as the data does."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.beta < math.inf:
            raise ValueError(f"beta: expected a finite number > 0, got {self.beta}")


class DPOTrainer(PreferenceTrainer):
    """DPO, with the reference model's log-probabilities computed once, before training.

    The reference is `ref_model`, or else `model` as it is when the trainer is made.
    """

    accuracy_metric = "rewards/accuracies"
    args: DPOConfig

    def __init__(
        self,
        model: PreTrainedModel,
        args: DPOConfig,
        train_dataset: Iterable[Mapping[str, Any]],
        eval_dataset: Iterable[Mapping[str, Any]] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        ref_model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args, train_dataset, eval_dataset, processing_class, **kwargs)
        reference: nn.Module = model if ref_model is None else ref_model.to(args.device)
        self.train_dataset = with_reference(self.train_dataset, reference, self.data_collator, args)
        if self.eval_dataset is not None:
            self.eval_dataset = with_reference(self.eval_dataset, reference, self.data_collator, args)

    def pair_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits = model_logits(model, batch)
        kept, reference = summed_logprobs(logits, batch, "loss_mask"), batch["ref_logprobs"]  # [B, 2] each
        first, second = (1, 0) if self.args.reverse else (0, 1)
        losses, *rewards = dpo_loss(
            kept[:, first], kept[:, second], reference[:, first], reference[:, second], beta=self.args.beta
        )
        chosen, rejected = rewards[first], rewards[second]
        tokens = batch["loss_mask"].sum(-1)  # [B, 2]
        share = tokens / batch["response_mask"].sum(-1)
        # A pair that keeps no token has two log-ratios of 0: no gradient, and no say in the loss either.
        empty = tokens.sum(1) == 0
        metrics = {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/accuracies": (chosen > rejected).float(),
            "rewards/margins": chosen - rejected,
            "logps/chosen": kept[:, 0].detach(),
            "logps/rejected": kept[:, 1].detach(),
            "kept_chosen": share[:, 0],
            "kept_rejected": share[:, 1],
            "empty_pairs": empty.float(),
        }
        if not model.training:
            # The same question put to whole responses, so that methods with different masks can be compared.
            whole = summed_logprobs(logits, batch, "response_mask") - batch["ref_response_logprobs"]
            metrics["rewards/whole_accuracies"] = (whole[:, 0] > whole[:, 1]).float()
        return losses.masked_fill(empty, 0.0), metrics


def with_reference(rows: Rows, reference: nn.Module, collator: PreferenceCollator, args: PreferenceConfig) -> Rows:
    """Add `ref_logprobs` and `ref_response_logprobs`, `[chosen, rejected]`, to every row."""
    was_training = reference.training
    reference.eval()

    def columns(batch: Batch) -> Rows:
        logits = model_logits(reference, batch)
        kept = summed_logprobs(logits, batch, "loss_mask").tolist()
        whole = summed_logprobs(logits, batch, "response_mask").tolist()
        return [{"ref_logprobs": a, "ref_response_logprobs": b} for a, b in zip(kept, whole, strict=True)]

    rows = map_batches(columns, rows, collator, args, "reference log-probabilities")
    reference.train(was_training)
    return rows


def summed_logprobs(logits: Tensor, batch: Batch, mask: str) -> Tensor:
    """Log-probabilities of a batch's tokens summed under one of its masks: `[B, 2]`.

    `logits` is `[2 * B, T, V]`; those at `t - 1`, read in place, predict the token at `t`.
    """
    labels, chosen_tokens = (batch[name].flatten(0, 1)[:, 1:] for name in ("input_ids", mask))
    return segkernel.sequence_logprobs(logits[:, :-1], labels, chosen_tokens).view(-1, 2)
