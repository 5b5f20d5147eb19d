"""What the trainers on preference pairs share: settings, metrics, batched passes over frozen models."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from scipy.stats import binomtest
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from segkernel.collators import PreferenceCollator, ResponseCollator
from segkernel.encoding import encode_preferences, encode_prompts, pad_token_id
from segkernel.trainers.base import SegkernelConfig, SegkernelTrainer

Rows = list[dict[str, Any]]


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

    `train_dataset` and `eval_dataset` hold rows for `segkernel.encoding.encode_preferences`: strings, or ids.
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
        train, held_out = encode_splits(train_dataset, eval_dataset, processing_class, args.max_length)
        super().__init__(
            model=model,
            args=args,
            data_collator=preference_collator(processing_class),
            train_dataset=train,
            eval_dataset=held_out,
            processing_class=processing_class,
            compute_metrics=self.mean_metrics,
            **kwargs,
        )

    @abstractmethod
    def pair_losses(self, model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses `[B]` of the pairs in a batch of `PreferenceCollator`, and metrics by name, each `[B]`."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
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


def encode_splits(
    train_dataset: Iterable[Mapping[str, Any]],
    eval_dataset: Iterable[Mapping[str, Any]] | None,
    tokenizer: PreTrainedTokenizerBase | None,
    max_length: int,
) -> tuple[Rows, Rows | None]:
    """Tokenise what is trained on and what is held out; rows that are tokenised already stay as they are."""
    train = encode_preferences(train_dataset, tokenizer, max_length=max_length, name="train_dataset")
    if eval_dataset is None:
        return train, None
    return train, encode_preferences(eval_dataset, tokenizer, max_length=max_length, name="eval_dataset", at_least=1)


def encode_prompt_splits(
    train_dataset: Iterable[Mapping[str, Any]],
    eval_dataset: Iterable[Mapping[str, Any]] | None,
    tokenizer: PreTrainedTokenizerBase | None,
    max_length: int,
) -> tuple[Rows, Rows | None]:
    """The same for prompts."""
    train = encode_prompts(train_dataset, tokenizer, max_length=max_length, name="train_dataset")
    if eval_dataset is None:
        return train, None
    return train, encode_prompts(eval_dataset, tokenizer, max_length=max_length, name="eval_dataset")


def response_collator(tokenizer: PreTrainedTokenizerBase | None) -> ResponseCollator:
    side = "right" if tokenizer is None else tokenizer.padding_side
    return ResponseCollator(pad_token_id=pad_token_id(tokenizer), padding_side=side)


def preference_collator(tokenizer: PreTrainedTokenizerBase | None) -> PreferenceCollator:
    side = "right" if tokenizer is None else tokenizer.padding_side
    return PreferenceCollator(pad_token_id=pad_token_id(tokenizer), padding_side=side)


def model_logits(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """One forward over a batch `[B, T]`, or over both sides of every pair, `[B, 2, T]`: `[B, T, V]`, or
    `[2 * B, T, V]` with rows chosen, rejected, chosen, ..."""
    inputs = {name: batch[name].flatten(0, -2) for name in ("input_ids", "attention_mask", "position_ids")}
    unwrapped = getattr(model, "module", model)
    if "position_ids" not in inspect.signature(unwrapped.forward).parameters:
        del inputs["position_ids"]
    return model(**inputs).logits


def map_batches(
    columns: Callable[[dict[str, Tensor]], Rows],
    rows: Rows,
    collator: PreferenceCollator | ResponseCollator,
    args: SegkernelConfig,
    description: str,
) -> Rows:
    """Add to every row, a pair or a response, the columns that a frozen model gives for it, in batches, without
    gradients.

    Rows of like length go together, and the processes of a distributed run share the batches.
    """
    responses = [name for name in ("chosen_ids", "rejected_ids", "response_ids") if name in rows[0]]
    lengths = [len(row["prompt_ids"]) + max(len(row[name]) for name in responses) for row in rows]
    order = sorted(range(len(rows)), key=lengths.__getitem__, reverse=True)
    size = args.per_device_eval_batch_size
    batches = [order[first : first + size] for first in range(0, len(order), size)]
    found: list[tuple[int, dict[str, Any]]] = []
    half = torch.float16 if args.fp16 else torch.bfloat16
    with torch.no_grad(), torch.autocast(args.device.type, dtype=half, enabled=args.fp16 or args.bf16):
        # The same number for every process: a model sharded over them computes with all of them or not at all.
        batches += batches[-1:] * (-len(batches) % args.world_size)
        mine = batches[args.process_index :: args.world_size]
        for indices in tqdm(mine, desc=description, disable=args.disable_tqdm):
            batch = collator([rows[index] for index in indices])
            batch = {name: values.to(args.device) for name, values in batch.items()}
            found += zip(indices, columns(batch), strict=True)
    new = dict(gather_object(found))
    return [{**row, **new[index]} for index, row in enumerate(rows)]
