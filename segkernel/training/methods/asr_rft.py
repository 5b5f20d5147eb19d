"""Rejection sampling on segments: Adaptive Segment-level Reward (arXiv 2411.00809) on the accepted responses.

Prefix scores -> token rewards -> segments -> the mask of the positive ones -> the likelihood of the tokens under it.
All of that but the last step is frozen, so it is done once, before training; from there on this is `RFTTrainer`.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.collators import values_of_responses
from segkernel.training.methods.rft import RFTConfig, RFTTrainer
from segkernel.training.rewards.prefix_scores import token_rewards
from segkernel.training.segmentation.segmenting import (
    SegmentOptions,
    Thresholds,
    TokenCredit,
    mask_agreement,
    report_example,
)
from segkernel.training.trainer.batches import Batch, Rows, map_batches

logger = logging.getLogger(__name__)


@dataclass
class ASRRFTConfig(SegmentOptions, RFTConfig):
    """Settings of `ASRRFTTrainer`. Thresholds are placed on the token rewards of all samples, accepted or not."""

    report_responses: int = field(default=6, metadata={"help": "Responses that report.html shows with their segments."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_column()


class ASRRFTTrainer(RFTTrainer):
    """Rejection sampling whose likelihood sees the positive segments of the accepted responses.

    `thresholds` holds the trigger's settings in the rewards' own unit. Where the truth is known, `token_credit` gives
    it per token, and `mask_agreement` is logged: the share of tokens that the mask treats as it says.
    """

    args: ASRRFTConfig

    def __init__(self, *args: Any, token_credit: TokenCredit | None = None, **kwargs: Any) -> None:
        self.token_credit = token_credit
        super().__init__(*args, **kwargs)

    def columns(self, scores: Tensor, batch: Batch) -> Rows:
        rewards = token_rewards(scores, batch, self.args.token_rewards)
        of_tokens = values_of_responses(rewards, batch["response_mask"])
        rows = super().columns(scores, batch)
        return [{**row, "token_rewards": values} for row, values in zip(rows, of_tokens, strict=True)]

    def accept(self, samples: Rows) -> Rows:
        self.thresholds = Thresholds.fit((reward for row in samples for reward in row["token_rewards"]), self.args)
        rows = map_batches(self.mask_columns, super().accept(samples), self.response_collator, self.args, "segments")
        kept = [token for row in rows for token in row["mask"]]
        if not any(kept):
            raise ValueError(
                f"delta: no segment of any accepted response is positive, so there is nothing to train on; got "
                f"{self.thresholds}"
            )
        logger.warning(
            "segments: %.0f %% of the accepted responses' tokens are trained on; %d of %d responses keep no token",
            100 * sum(kept) / len(kept),
            sum(not any(row["mask"]) for row in rows),
            len(rows),
        )
        return rows

    def mask_columns(self, batch: Batch) -> Rows:
        """Each response's `mask` (which of its tokens to train on) and `segments` (how many)."""
        mask = batch["response_mask"]
        signs = torch.ones(len(mask), dtype=torch.int64, device=mask.device)
        segments = self.thresholds.segment(batch["token_rewards"], mask, signs)
        assert segments.mask is not None  # since signs were given
        kept = values_of_responses(segments.mask, mask)
        rows: Rows = [{"mask": k, "segments": count} for k, count in zip(kept, segments.counts.tolist(), strict=True)]
        if self.token_credit is None:
            return rows
        agreement = mask_agreement(segments.mask, self.token_credit(batch), signs, mask).tolist()
        return [{**row, "mask_agreement": share} for row, share in zip(rows, agreement, strict=True)]

    def compute_loss(self, model: nn.Module, inputs: Batch, *args: Any, **kwargs: Any) -> Any:
        self.record({name: inputs[name] for name in ("segments", "mask_agreement") if name in inputs})
        return super().compute_loss(model, inputs, *args, **kwargs)

    def report_examples(self) -> list[Any]:
        if not isinstance(self.processing_class, PreTrainedTokenizerBase):
            return []
        return [
            report_example(
                "accepted",
                row["prompt_ids"],
                row["response_ids"],
                row["token_rewards"],
                1,
                self.thresholds,
                self.processing_class,
            )
            for row in self.train_dataset[: self.args.report_responses]
        ]
