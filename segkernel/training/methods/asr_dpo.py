"""Segment-masked DPO: Adaptive Segment-level Reward (arXiv 2411.00809) on preference pairs.

Prefix scores -> token rewards -> segments -> mask of the segments whose sign agrees with their response's (+1 chosen,
-1 rejected) -> DPO on the tokens under the mask. All steps but the last are frozen and run once, before training.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from segkernel import _validate
from segkernel.training.data.tables import head
from segkernel.training.methods.dpo import DPOConfig, DPOTrainer
from segkernel.training.models.response_tokens import ResponseTokens
from segkernel.training.report_examples import report_examples
from segkernel.training.segmentation.credit import TokenCredit
from segkernel.training.segmentation.options import PairSegmentOptions
from segkernel.training.segmentation.pairs import (
    check_token_rewards,
    fit_to_pairs,
    log_kept,
    with_mask_agreement,
    with_masks,
    with_smoothed_rewards,
    with_token_rewards,
)
from segkernel.training.trainer.base import Split
from segkernel.training.trainer.batches import Batch


@dataclass
class ASRDPOConfig(PairSegmentOptions, DPOConfig):
    """Settings of `ASRDPOTrainer`."""

    report_pairs: int = field(default=6, metadata={"help": "Pairs that report.html shows with their segments."})

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.minimum("report_pairs", self.report_pairs, 0)


class ASRDPOTrainer(DPOTrainer):
    """DPO on the segments of each response that earned its preference.

    Args:
        reward_model: model with one output per token, of the policy's tokenizer, or a reward function of texts or of
            a batch (`segkernel.training.rewards.functions`), called on every prefix; `None` with
            `args.token_rewards == "column"`, which reads the rows' token rewards.
        token_credit: optional ground truth per token; logs `mask_agreement`, the share of tokens whose mask matches it.
        *args, **kwargs: arguments of `DPOTrainer`.

    Attributes:
        thresholds: resolved trigger settings in reward units.
    """

    args: ASRDPOConfig

    def __init__(
        self,
        model: PreTrainedModel,
        args: ASRDPOConfig,
        *rest: Any,
        reward_model: nn.Module | Callable[..., Any] | None = None,
        token_credit: TokenCredit | None = None,
        **kwargs: Any,
    ) -> None:
        if (reward_model is None) != (args.token_rewards == "column"):
            raise ValueError(
                f"reward_model: expected one for token_rewards={args.token_rewards!r}, got none"
                if reward_model is None
                else "reward_model: expected none, since token_rewards='column' takes the rewards from the data"
            )
        self.reward_model = reward_model
        self.token_credit = token_credit
        super().__init__(model, args, *rest, **kwargs)
        self.reward_model = None  # its token rewards are columns by now

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a response, whose rewards do not count; none if the rewards are a column of the data."""
        if self.args.token_rewards == "column":
            return ()
        tokenizer: Any = self.processing_class
        return ResponseTokens.of(self.model, tokenizer, pad_id=self.data_collator.pad_token_id).end_ids

    def prepare(self, dataset: Dataset, split: Split) -> Dataset:
        if self.reward_model is None:
            check_token_rewards(dataset, f"{split}_dataset")
        else:
            tokenizer: Any = self.processing_class
            dataset = with_token_rewards(
                dataset, self.reward_model, self.args.token_rewards, self.data_collator, self.args, tokenizer
            )
        dataset = with_smoothed_rewards(dataset, self.args.smoothing, self.end_ids)
        if split == "train":
            self.thresholds = fit_to_pairs(dataset, self.args, self.end_ids)
        dataset = with_masks(dataset, self.thresholds, self.end_ids, warn=split == "train")
        if split == "train":
            log_kept(dataset, self.thresholds)
        if self.token_credit is not None:
            dataset = with_mask_agreement(dataset, self.token_credit, self.data_collator, self.args)
        return super().prepare(dataset, split)

    def report_examples(self) -> list[Any]:
        if not isinstance(self.processing_class, PreTrainedTokenizerBase):
            return []
        rows = self.train_dataset if self.eval_dataset is None else self.eval_dataset
        return report_examples(head(rows, self.args.report_pairs), self.thresholds, self.processing_class, self.end_ids)

    def pair_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        losses, metrics = super().pair_losses(model, batch)
        chosen, rejected = batch["segments"].float().unbind(1)
        metrics |= {"segments/chosen": chosen, "segments/rejected": rejected}
        if "mask_agreement" in batch:
            metrics["mask_agreement"] = batch["mask_agreement"].mean(1)
        return losses, metrics
