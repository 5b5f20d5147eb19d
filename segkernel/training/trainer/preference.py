"""Base class for trainers on preference pairs: per-pair loss, metrics, accuracy with a Wilson interval."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from scipy.stats import binomtest
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from segkernel.training.data.collators import PreferenceCollator
from segkernel.training.data.encoding import encode_preferences
from segkernel.training.data.tables import Rows
from segkernel.training.models.causality import check_left_padding
from segkernel.training.models.context import FITTED, fit_length
from segkernel.training.trainer.base import Items, SegkernelConfig, SegkernelTrainer, Split
from segkernel.training.trainer.batches import Batch

MAX_LENGTH = 512  # default, lowered to the context of the models


@dataclass
class PreferenceConfig(SegkernelConfig):
    """Settings of every trainer on preference pairs."""

    max_length: int = field(
        default=FITTED,
        metadata={
            "help": "Most tokens of prompt and response together. A longer prompt loses its oldest tokens; a pair "
            "with a response that is longer by itself is dropped. Default: 512, or the models' context."
        },
    )


class PreferenceTrainer(SegkernelTrainer, ABC):
    """Trains on pairs with one loss per pair: a subclass defines `pair_losses` and names its `accuracy_metric`.

    Args:
        model: model to train.
        args: settings.
        train_dataset: a `datasets.Dataset` or mappings, with strings or token ids (`encode_preferences`).
        eval_dataset: held-out rows of the same kind.
        processing_class: tokenizer; rows of token ids need none.
    """

    accuracy_metric: str
    args: PreferenceConfig
    data_collator: PreferenceCollator

    def __init__(
        self,
        model: PreTrainedModel,
        args: PreferenceConfig,
        train_dataset: Rows,
        eval_dataset: Rows | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            model,
            args,
            train_dataset,
            eval_dataset,
            processing_class,
            data_collator=PreferenceCollator.of(processing_class),
            compute_metrics=self.mean_metrics,
            **kwargs,
        )

    def fit_context(self, models: Mapping[str, Any]) -> None:
        self.args.max_length = fit_length("max_length", self.args.max_length, MAX_LENGTH, models)
        if getattr(self.processing_class, "padding_side", "right") == "left":
            for name, model in models.items():
                if isinstance(model, PreTrainedModel):
                    check_left_padding(model, name)

    def encode(self, rows: Rows, split: Split) -> Dataset:
        return encode_preferences(rows, max_length=self.args.max_length, **self.encoding_options(split))

    @abstractmethod
    def pair_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses `[B]` of the pairs in a batch of `PreferenceCollator`, and metrics by name, each `[B]`."""

    def items(self, batch: Batch) -> Items:
        return {"pairs": torch.tensor(len(batch["input_ids"]))}

    def read_tokens(self, batch: Batch, metrics: Mapping[str, Tensor]) -> Tensor:
        """Number of tokens, or of pairs, that the loss of a batch depends on; a step without any is skipped.

        `metrics` are those of `pair_losses`.
        """
        return batch["loss_mask"].sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        losses, metrics = self.pair_losses(model, inputs)
        if model.training:
            self.record(metrics)
            self.record_kept(self.read_tokens(inputs, metrics))
        loss = self.step_share(losses, None, (num_items_in_batch or self.total_items([inputs]))["pairs"])
        return (loss, metrics) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        with torch.no_grad():
            losses, metrics = self.pair_losses(model, self._prepare_inputs(inputs))
        return self.predicted({"loss": losses, **metrics})

    def mean_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        table = np.asarray(prediction.predictions)
        name = self.accuracy_metric
        correct = int(table[:, self._metric_names.index(name)].sum())
        low, high = accuracy_interval(correct, len(table))
        return {**super().mean_metrics(prediction), f"{name}_low": low, f"{name}_high": high, "pairs": len(table)}


def accuracy_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson interval of the share of `correct` in `total` independent pairs.

    Example:
        >>> [round(bound, 3) for bound in accuracy_interval(60, 100)]
        [0.502, 0.691]
    """
    interval = binomtest(correct, total).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)
