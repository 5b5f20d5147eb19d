"""Rejection sampling on the tokens of the largest excess loss: selective language modeling (Rho-1, arXiv 2404.07965).

The excess loss of a token is its loss under the policy minus its loss under a reference model that was trained on
clean answers. At every step the share `fraction` of a micro-batch's tokens with the largest excess loss is trained on.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

from segkernel.training.methods.rft import RFTConfig, RFTTrainer
from segkernel.training.models import check_teacher
from segkernel.training.selection.batch_share import largest_share, share_count
from segkernel.training.selection.options import check_share
from segkernel.training.selection.scores import evaluating, finite_logprobs
from segkernel.training.trainer.base import Items
from segkernel.training.trainer.batches import Batch, Columns, Lists, map_batches
from segkernel.training.trainer.response_logits import logprobs_under


@dataclass
class SLMRFTConfig(RFTConfig):
    """Settings of `SLMRFTTrainer`."""

    ref_model: str | None = field(
        default=None,
        metadata={"help": "Directory of a language model that was trained on clean answers.", "metavar": "DIR"},
    )
    fraction: float = field(
        default=0.6,
        metadata={"help": "Share of a micro-batch's tokens that is trained on: those of the largest excess loss."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("fraction", self.fraction)


class SLMRFTTrainer(RFTTrainer):
    """Rejection sampling whose likelihood reads the tokens of the largest excess loss.

    Args:
        ref_model: causal language model over the policy's tokens, trained on clean answers; frozen. Its
            log-probabilities of the accepted responses are computed once, before training.
        *rest, **kwargs: arguments of `RFTTrainer` after `model` and `args`.
    """

    args: SLMRFTConfig

    def __init__(
        self, model: PreTrainedModel, args: SLMRFTConfig, *rest: Any, ref_model: PreTrainedModel, **kwargs: Any
    ) -> None:
        check_teacher("ref_model", ref_model, model)
        self.ref_model: Any = ref_model
        super().__init__(model, args, *rest, **kwargs)
        self.ref_model = None  # its log-probabilities are a column by now

    def accept(self, samples: Dataset) -> Dataset:
        self.ref_model.to(self.args.device)
        with evaluating(self.ref_model):
            return map_batches(
                self.reference_columns, super().accept(samples), self.response_collator, self.args, "reference losses"
            )

    def reference_columns(self, batch: Batch) -> Columns:
        """`ref_token_logprobs` of the responses in a batch."""
        return {
            "ref_token_logprobs": Lists(finite_logprobs("ref_model", self.ref_model, batch), batch["response_mask"])
        }

    def trained_tokens(self, logits: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            logprobs = logprobs_under(logits, batch, batch["loss_mask"])
        return largest_share(batch["ref_token_logprobs"] - logprobs, batch["loss_mask"], self.args.fraction)

    def items(self, batch: Batch) -> Items:
        return {"tokens": share_count(batch["loss_mask"], self.args.fraction)}
