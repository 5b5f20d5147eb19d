"""SePO: selective preference optimization (arXiv 2408.13518).

A token's score is its log-ratio between a DPO model and that model's reference, a reward that DPO implies. The share
`fraction` of a chosen response's tokens with the largest scores and of a rejected response's with the smallest are
selected once, before training: `floor(fraction * T)` of `T`. The loss of a pair is `-log sigmoid` of the difference
of their mean log-probabilities, without a reference model.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel

import segkernel
from segkernel.training.methods.simpo import SimPOConfig, SimPOTrainer
from segkernel.training.models import check_teacher
from segkernel.training.selection.options import PairReportOptions, check_share
from segkernel.training.selection.pairs import drop_half_empty, log_selected, pair_samples, with_log_ratios
from segkernel.training.trainer.base import Split
from segkernel.training.trainer.batches import Batch, Columns, Lists


@dataclass
class SePOConfig(PairReportOptions, SimPOConfig):
    """Settings of `SePOTrainer`."""

    beta: float = field(default=1.0, metadata={"help": "Scale of the difference of mean log-probabilities."})
    gamma: float = field(
        default=0.0, metadata={"help": "Margin by which the scaled difference is to exceed 0, at least 0."}
    )
    dpo_model: str | None = field(
        default=None,
        metadata={"help": "Directory of a model made with `segkernel train dpo`, on any model of the same tokens."},
    )
    ref_model: str | None = field(
        default=None,
        metadata={
            "help": "Directory of the model that --dpo_model was trained from. Default: --model.",
            "metavar": "DIR",
        },
    )
    fraction: float = field(default=0.3, metadata={"help": "Share of each response's tokens that is selected."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("fraction", self.fraction)


class SePOTrainer(SimPOTrainer):
    """SimPO on the tokens that a DPO model raised or lowered the most.

    The two models score the data once, before training. A response of fewer than `1 / fraction` tokens has no selected
    token; its pair trains nothing and is counted.

    Args:
        dpo_model: model trained by DPO; frozen.
        ref_model: its reference, and that of the metrics `rewards/...`; default: `model` as it is when the trainer is
            made.
        *rest, **kwargs: arguments of `PreferenceTrainer` after `model` and `args`.
    """

    args: SePOConfig

    def __init__(
        self, model: PreTrainedModel, args: SePOConfig, *rest: Any, dpo_model: PreTrainedModel, **kwargs: Any
    ) -> None:
        check_teacher("dpo_model", dpo_model, model)
        self.dpo_model: Any = dpo_model
        super().__init__(model, args, *rest, **kwargs)
        self.dpo_model = None  # its scores are columns by now

    def frozen_models(self) -> dict[str, Any]:
        return {**super().frozen_models(), "dpo_model": self.dpo_model}

    def prepare(self, dataset: Dataset, split: Split) -> Dataset:
        models = ("dpo_model", self.dpo_model.to(self.args.device)), ("ref_model", self.reference())
        dataset = with_log_ratios(dataset, models, self.selection, self.data_collator, self.args)
        if split == "train":
            log_selected(dataset, "fraction")
        return super().prepare(dataset, split)

    def selection(self, scores: Tensor, batch: Batch) -> Columns:
        """`mask` of both responses: the largest scores of the chosen one, the smallest of the rejected one."""
        sides = zip(
            scores.view_as(batch["loss_mask"]).unbind(1), batch["loss_mask"].unbind(1), (True, False), strict=True
        )
        masks = [
            segkernel.select_tokens(values, mask, fraction=self.args.fraction, largest=largest, rounding="floor")
            for values, mask, largest in sides
        ]
        selected = drop_half_empty(torch.stack(masks, dim=1))
        return {"mask": Lists(selected.flatten(0, 1), batch["response_mask"].flatten(0, 1))}

    def report_examples(self) -> list[Any]:
        """Responses of some pairs, colored by their scores, with the tokens that are trained on."""
        rows = self.train_dataset if self.eval_dataset is None else self.eval_dataset
        return pair_samples(rows, self.args.report_pairs, self.processing_class)
