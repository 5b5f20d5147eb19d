"""What the trainers on preference pairs share: settings, a loss per pair, and how sure their accuracy is."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from segkernel.training.data.collators import PreferenceCollator
from segkernel.training.data.encoding import encode_preferences, encode_splits
from segkernel.training.trainer.base import SegkernelConfig, SegkernelTrainer
from segkernel.training.trainer.batches import Batch, Rows


@dataclass
class PreferenceConfig(SegkernelConfig):
    """Settings of every trainer on preference pairs, over those of every run."""

    max_length: int = field(
        default=512,
        metadata={
            "help": "Most tokens of prompt and response together. A longer prompt loses its oldest tokens; a pair "
            "whose response alone is longer is dropped."
        },
    )


class PreferenceTrainer(SegkernelTrainer, ABC):
    """Trains on pairs by one loss per pair: a subclass gives `pair_losses`, and names `accuracy_metric`.

    `train_dataset` and `eval_dataset` hold rows for `training.data.encoding.encode_preferences`: strings, or ids.
    """

    accuracy_metric: str
    args: PreferenceConfig
    data_collator: PreferenceCollator
    train_dataset: Rows
    eval_dataset: Rows | None

    def __init__(
        self,
        model: PreTrainedModel,
        args: PreferenceConfig,
        train_dataset: Iterable[Mapping[str, Any]],
        eval_dataset: Iterable[Mapping[str, Any]] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        train, held_out = encode_splits(
            encode_preferences, train_dataset, eval_dataset, processing_class, args.max_length
        )
        super().__init__(
            model=model,
            args=args,
            data_collator=PreferenceCollator.of(processing_class),
            train_dataset=train,
            eval_dataset=held_out,
            processing_class=processing_class,
            compute_metrics=self.mean_metrics,
            **kwargs,
        )

    @abstractmethod
    def pair_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses `[B]` of the pairs in a batch of `PreferenceCollator`, and metrics by name, each `[B]`."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        losses, metrics = self.pair_losses(model, inputs)
        if model.training:
            self.record(metrics)
            self.record_kept(inputs["loss_mask"].sum())
        loss = losses.mean()
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
    """Wilson's interval for a share of `correct` out of `total` independent pairs.

    Example:
        >>> [round(bound, 3) for bound in accuracy_interval(60, 100)]
        [0.502, 0.691]
    """
    interval = binomtest(correct, total).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)
