"""Language modeling on texts: a small model to start the other methods from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

import segkernel
from segkernel.training.data.collators import TextCollator, pad_token_id
from segkernel.training.data.encoding import encode_splits, encode_texts
from segkernel.training.models.context import FITTED, fit_length
from segkernel.training.models.forward import without_cache
from segkernel.training.trainer.base import Items, SegkernelConfig, SegkernelTrainer
from segkernel.training.trainer.batches import Batch

MAX_LENGTH = 256  # default, lowered to the context of the model


@dataclass
class PretrainConfig(SegkernelConfig):
    """Settings of `PretrainTrainer`."""

    max_length: int = field(
        default=FITTED,
        metadata={
            "help": "Tokens per training block; texts are packed into blocks. Default: 256, or the model's context."
        },
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "AdamW's peak learning rate."})
    disable_dropout: bool = field(default=False, metadata={"help": "Train without the model's dropout."})


class PretrainTrainer(SegkernelTrainer):
    """Causal language modeling on texts, packed into blocks (`encode_texts`)."""

    def __init__(
        self,
        model: PreTrainedModel,
        args: PretrainConfig,
        train_dataset: Iterable[Mapping[str, Any]],
        eval_dataset: Iterable[Mapping[str, Any]] | None = None,
        *,
        processing_class: PreTrainedTokenizerBase,
        **kwargs: Any,
    ) -> None:
        args.max_length = fit_length("max_length", args.max_length, MAX_LENGTH, {"model": model})
        train, held_out = encode_splits(
            encode_texts,
            train_dataset,
            eval_dataset,
            processing_class,
            args.max_length,
            skip_bad_rows=args.skip_bad_rows,
        )
        super().__init__(
            model=model,
            args=args,
            data_collator=TextCollator(pad_token_id(processing_class)),
            train_dataset=train,
            eval_dataset=held_out,
            processing_class=processing_class,
            compute_metrics=self.mean_metrics,
            **kwargs,
        )

    def items(self, batch: Batch) -> Items:
        return {"tokens": batch["attention_mask"][:, 1:].sum()}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean negative log-likelihood of the tokens, over all batches of an optimizer step."""
        logits = model(**inputs, **without_cache(model)).logits
        items = num_items_in_batch or self.total_items([inputs])
        loss = self.step_share(-self.row_logprobs(logits, inputs), None, items["tokens"])
        return (loss, {"logits": logits}) if return_outputs else loss

    def row_logprobs(self, logits: Tensor, batch: Batch) -> Tensor:
        """Summed log-probability of each block of a batch, `[B]`."""
        labels, mask = batch["input_ids"][:, 1:], batch["attention_mask"][:, 1:]
        return segkernel.sequence_logprobs(logits[:, :-1], labels, mask)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        batch = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            losses = -self.row_logprobs(model(**batch, **without_cache(model)).logits, batch)
        return self.predicted({"loss": losses, "tokens": batch["attention_mask"][:, 1:].sum(1)})

    def mean_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Mean loss per token of the held-out blocks."""
        losses, tokens = np.asarray(prediction.predictions, dtype=np.float64).sum(axis=0)
        return {"loss": float(losses / tokens)}
