"""Language modeling on texts: a small model to start the other methods from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import segkernel
from segkernel.training.data.collators import TextCollator, pad_token_id
from segkernel.training.data.encoding import encode_splits, encode_texts
from segkernel.training.trainer.base import SegkernelConfig, SegkernelTrainer
from segkernel.training.trainer.batches import Batch


@dataclass
class PretrainConfig(SegkernelConfig):
    """Settings of `PretrainTrainer`."""

    max_length: int = field(default=256, metadata={"help": "Tokens per training block; texts are packed into blocks."})
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
            **kwargs,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        logits = model(**inputs).logits
        labels, mask = inputs["input_ids"][:, 1:], inputs["attention_mask"][:, 1:]
        logprobs = segkernel.sequence_logprobs(logits[:, :-1], labels, mask)
        loss = -logprobs.sum() / mask.sum()
        return (loss, {"logits": logits}) if return_outputs else loss
