"""Segment-masked DPO: Adaptive Segment-level Reward (arXiv 2411.00809) on preference pairs.

Prefix scores -> token rewards -> segments -> the mask of those segments whose sign agrees with their response's
(+1 chosen, -1 rejected) -> DPO on the tokens under it. All of that but the last step is frozen, so it is done once,
before training; from there on this is `DPOTrainer`.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from segkernel.training.data.collators import PreferenceCollator
from segkernel.training.data.encoding import encode_preferences, encode_splits
from segkernel.training.data.readers import SIDES
from segkernel.training.methods.dpo import DPOConfig, DPOTrainer
from segkernel.training.rewards.prefix_scores import PrefixScorer
from segkernel.training.segmentation.segmenting import (
    PairSegmentOptions,
    Thresholds,
    TokenCredit,
    report_examples,
    with_masks,
    with_token_rewards,
)
from segkernel.training.trainer.batches import Batch, Rows

logger = logging.getLogger(__name__)


@dataclass
class ASRDPOConfig(PairSegmentOptions, DPOConfig):
    """Settings of `ASRDPOTrainer`."""

    report_pairs: int = field(default=6, metadata={"help": "Pairs that report.html shows with their segments."})


class ASRDPOTrainer(DPOTrainer):
    """DPO on the segments of each response that earned its preference.

    Token rewards are made with `reward_model` (one output per token, of the policy's tokenizer, or any function from a
    batch to scores of every prefix), or read from the rows when `args.token_rewards == "column"`. `thresholds` holds
    the trigger's settings in the rewards' own unit. Where the truth is known, `token_credit` gives it per token, and
    `mask_agreement` is logged: the share of tokens that the mask treats as it says.
    """

    args: ASRDPOConfig

    def __init__(
        self,
        model: PreTrainedModel,
        args: ASRDPOConfig,
        train_dataset: Iterable[Mapping[str, Any]],
        eval_dataset: Iterable[Mapping[str, Any]] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        reward_model: nn.Module | PrefixScorer | None = None,
        token_credit: TokenCredit | None = None,
        **kwargs: Any,
    ) -> None:
        if (reward_model is None) != (args.token_rewards == "column"):
            raise ValueError(
                f"reward_model: expected one for token_rewards={args.token_rewards!r}, got none"
                if reward_model is None
                else "reward_model: expected none, since token_rewards='column' takes the rewards from the data"
            )
        train, held_out = encode_splits(
            encode_preferences, train_dataset, eval_dataset, processing_class, args.max_length
        )
        collator = PreferenceCollator.of(processing_class)

        def rewarded(rows: Rows, name: str) -> Rows:
            if reward_model is not None:
                return with_token_rewards(rows, reward_model, args.token_rewards, collator, args)
            for index, row in enumerate(rows):
                if "chosen_token_rewards" not in row or "rejected_token_rewards" not in row:
                    raise ValueError(
                        f"{name}[{index}]: expected chosen_token_rewards and rejected_token_rewards, got {sorted(row)}"
                    )
            return rows

        train = rewarded(train, "train_dataset")
        self.thresholds = Thresholds.of_pairs(train, args)
        train = with_masks(train, self.thresholds, collator, args, token_credit)
        if held_out is not None:
            held_out = with_masks(rewarded(held_out, "eval_dataset"), self.thresholds, collator, args, token_credit)
        _log_kept(train, self.thresholds)
        super().__init__(model, args, train, held_out, processing_class, **kwargs)

    def report_examples(self) -> list[Any]:
        if not isinstance(self.processing_class, PreTrainedTokenizerBase):
            return []
        rows = self.train_dataset if self.eval_dataset is None else self.eval_dataset
        return report_examples(rows[: self.args.report_pairs], self.thresholds, self.processing_class)

    def pair_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        losses, metrics = super().pair_losses(model, batch)
        chosen, rejected = batch["segments"].float().unbind(1)
        metrics |= {"segments/chosen": chosen, "segments/rejected": rejected}
        if "mask_agreement" in batch:
            metrics["mask_agreement"] = batch["mask_agreement"].mean(1)
        return losses, metrics


def _log_kept(rows: Rows, thresholds: Thresholds) -> None:
    kept = [token for row in rows for side in SIDES for token in row[f"{side}_mask"]]
    empty = sum(not any(row["chosen_mask"]) and not any(row["rejected_mask"]) for row in rows)
    if empty == len(rows):
        raise ValueError(
            f"delta: no segment of any training pair agrees with its response, so there is nothing to train on; "
            f"got {thresholds}"
        )
    logger.warning(
        "segments: %.0f %% of the response tokens are trained on; %d of %d pairs keep no token",
        100 * sum(kept) / len(kept),
        empty,
        len(rows),
    )
