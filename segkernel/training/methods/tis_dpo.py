"""TIS-DPO: DPO with an importance weight per token (arXiv 2410.04350).

The log-ratio `d` of a token between a DPO model and a *reverse* one (`segkernel train dpo --reverse`), negated in a
rejected response, is clipped and mapped to a weight, linearly. The loss is that of `dpo` with each token's log-ratio
to the reference multiplied by its weight; tokens that end a response have weight 0.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from segkernel import _validate
from segkernel.training.methods.dpo import DPOConfig, DPOTrainer
from segkernel.training.models import check_teacher
from segkernel.training.models.response_tokens import ResponseTokens
from segkernel.training.selection.options import PairReportOptions
from segkernel.training.selection.pairs import log_selected, pair_samples, with_log_ratios
from segkernel.training.trainer.base import Split
from segkernel.training.trainer.batches import Batch, Columns, Lists

logger = logging.getLogger(__name__)


@dataclass
class TISDPOConfig(PairReportOptions, DPOConfig):
    """Settings of `TISDPOTrainer`; the defaults map log-ratios of -1.5 to 1.5 to weights of 0.7 to 1.3."""

    dpo_model: str | None = field(
        default=None, metadata={"help": "Directory of a model made with `segkernel train dpo`."}
    )
    reverse_dpo_model: str | None = field(
        default=None, metadata={"help": "Directory of a model made with `segkernel train dpo --reverse`."}
    )
    ratio_bound: float = field(
        default=1.5, metadata={"help": "Bound of a token's log-ratio between the two models, in nats."}
    )
    least_weight: float = field(default=0.7, metadata={"help": "Weight of a token at minus the bound."})
    weight_slope: float = field(default=0.2, metadata={"help": "Growth of the weight per nat above minus the bound."})

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.positive("ratio_bound", self.ratio_bound)
        for name in ("least_weight", "weight_slope"):
            _validate.weight(name, getattr(self, name))


class TISDPOTrainer(DPOTrainer):
    """DPO on weighted tokens; the weights are computed once, before training.

    The tokens that end a response are the EOS of the tokenizer and those of the model's generation config.

    Args:
        dpo_model: model trained by DPO; frozen.
        reverse_dpo_model: model trained by DPO with `reverse=True`; frozen.
        *rest, **kwargs: arguments of `DPOTrainer` after `model` and `args`.
    """

    args: TISDPOConfig

    def __init__(
        self,
        model: PreTrainedModel,
        args: TISDPOConfig,
        *rest: Any,
        dpo_model: PreTrainedModel,
        reverse_dpo_model: PreTrainedModel,
        **kwargs: Any,
    ) -> None:
        check_teacher("dpo_model", dpo_model, model)
        check_teacher("reverse_dpo_model", reverse_dpo_model, model)
        self.dpo_model: Any = dpo_model
        self.reverse_dpo_model: Any = reverse_dpo_model
        super().__init__(model, args, *rest, **kwargs)
        self.dpo_model = self.reverse_dpo_model = None  # the weights are columns by now

    def frozen_models(self) -> dict[str, Any]:
        return {**super().frozen_models(), "dpo_model": self.dpo_model, "reverse_dpo_model": self.reverse_dpo_model}

    def prepare(self, dataset: Dataset, split: Split) -> Dataset:
        tokenizer: Any = self.processing_class
        self.end_ids = ResponseTokens.of(self.model, tokenizer, pad_id=self.data_collator.pad_token_id).end_ids
        models = (
            ("dpo_model", self.dpo_model.to(self.args.device)),
            ("reverse_dpo_model", self.reverse_dpo_model.to(self.args.device)),
        )
        dataset = with_log_ratios(dataset, models, self.weights, self.data_collator, self.args)
        if split == "train":
            if not self.end_ids:
                logger.warning("token weights: no EOS is known, so the last tokens have weights like all others")
            log_selected(dataset, "train_dataset")
        return super().prepare(dataset, split)

    def weights(self, log_ratios: Tensor, batch: Batch) -> Columns:
        """`token_weights` of both responses, and their `mask`, without the tokens that end them."""
        kept, mask = (batch[name].flatten(0, 1) for name in ("loss_mask", "response_mask"))
        ids, signs = batch["input_ids"].flatten(0, 1), log_ratios.new_tensor([1.0, -1.0]).repeat(len(mask) // 2)
        bound = self.args.ratio_bound
        above = (signs[:, None] * log_ratios).clamp(-bound, bound) + bound
        kept = kept & ~torch.isin(ids, torch.tensor(self.end_ids, device=ids.device))
        weights = torch.where(kept, self.args.least_weight + self.args.weight_slope * above, 0.0)
        return {"token_weights": Lists(weights, mask), "mask": Lists(kept, mask)}

    def pair_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        losses, metrics = super().pair_losses(model, batch)
        means = batch["token_weights"].sum(-1) / batch["loss_mask"].sum(-1).clamp(min=1)
        return losses, {**metrics, "token_weight/chosen": means[:, 0], "token_weight/rejected": means[:, 1]}

    def report_examples(self) -> list[Any]:
        """Responses of some pairs, colored by their log-ratios, with the tokens that are trained on."""
        rows = self.train_dataset if self.eval_dataset is None else self.eval_dataset
        return pair_samples(rows, self.args.report_pairs, self.processing_class)
