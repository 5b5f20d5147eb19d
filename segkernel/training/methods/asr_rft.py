"""Rejection sampling on segments: Adaptive Segment-level Reward (arXiv 2411.00809) on the accepted responses.

Prefix scores -> token rewards -> segments -> mask of the positive ones -> likelihood of the tokens under the mask. All
steps but the last are frozen and run once, before training.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.columns import RESPONSES
from segkernel.training.data.tables import FlatLists, flat_lists, head, to_table, with_columns
from segkernel.training.methods.rft import RFTConfig, RFTTrainer
from segkernel.training.report_examples import report_example
from segkernel.training.rewards.prefix_scores import token_rewards
from segkernel.training.segmentation.credit import TokenCredit, mask_agreement
from segkernel.training.segmentation.lengths import warn_of_short_segments
from segkernel.training.segmentation.options import SampledSegmentOptions
from segkernel.training.segmentation.rows import TokenRows
from segkernel.training.segmentation.smoothing import smooth
from segkernel.training.segmentation.thresholds import Thresholds
from segkernel.training.trainer.batches import Batch, Columns, Lists, map_batches

logger = logging.getLogger(__name__)


@dataclass
class ASRRFTConfig(SampledSegmentOptions, RFTConfig):
    """Settings of `ASRRFTTrainer`. Thresholds are placed on the token rewards of all samples, accepted or not."""


class ASRRFTTrainer(RFTTrainer):
    """Rejection sampling whose likelihood reads the positive segments of the accepted responses.

    Args:
        token_credit: optional ground truth per token; logs `mask_agreement`, the share of tokens whose mask matches it.
        *args, **kwargs: arguments of `RFTTrainer`.

    Attributes:
        thresholds: resolved trigger settings in reward units.
    """

    reads_every_prefix = True
    args: ASRRFTConfig

    def __init__(self, *args: Any, token_credit: TokenCredit | None = None, **kwargs: Any) -> None:
        self.token_credit = token_credit
        super().__init__(*args, **kwargs)

    def columns(self, scores: Tensor, batch: Batch) -> Columns:
        rewards = token_rewards(scores, batch, self.args.token_rewards)
        return {**super().columns(scores, batch), "token_rewards": Lists(rewards, batch["response_mask"])}

    def accept(self, samples: Dataset) -> Dataset:
        accepted = super().accept(self.with_baselines(samples))
        rewards = self.reward_rows(accepted)
        baselines = torch.tensor(to_table(accepted)["baseline"].to_numpy())
        segments = self.thresholds.segment(rewards, baselines, torch.ones(len(accepted)))
        assert segments.mask is not None  # since signs were given
        masks = FlatLists(segments.mask.numpy(), rewards.lengths.numpy())
        if not masks.values.any():
            raise ValueError(
                f"delta: no segment of any accepted response is positive, so there is nothing to train on; got "
                f"{self.thresholds}"
            )
        warn_of_short_segments(segments, rewards.rows)
        logger.warning(
            "segments: %.0f %% of the accepted responses' tokens are trained on; %d of %d responses keep no token",
            100 * masks.values.mean(),
            (np.add.reduceat(masks.values, masks.offsets[:-1], dtype=np.int64) == 0).sum(),
            len(accepted),
        )
        accepted = with_columns(accepted, {"mask": masks.to_arrow(), "segments": segments.counts.numpy()}, RESPONSES)
        if self.token_credit is None:
            return accepted
        return map_batches(self.agreement, accepted, self.response_collator, self.args, "true credit")

    def with_baselines(self, samples: Dataset) -> Dataset:
        """Samples with smoothed `token_rewards` and their `baseline`, which `thresholds` are fitted to."""
        rewards = smooth(self.reward_rows(samples), self.args.smoothing)
        self.thresholds = Thresholds.fit(rewards, self.args)
        prompts = torch.tensor(to_table(samples)["prompt_index"].to_numpy())
        columns = {
            "token_rewards": FlatLists(rewards.values.double().numpy(), rewards.lengths.numpy()).to_arrow(),
            "baseline": self.thresholds.baselines(rewards, prompts).numpy(),
        }
        return with_columns(samples, columns, RESPONSES)

    def reward_rows(self, samples: Dataset) -> TokenRows:
        """Token rewards of samples; those of tokens that end a response do not count."""
        ids = flat_lists(samples, "response_ids")
        ended = np.isin(ids.values[ids.offsets[1:] - 1], self.response_tokens.end_ids)
        return TokenRows.of_lists(flat_lists(samples, "token_rewards"), torch.from_numpy(ended))

    def agreement(self, batch: Batch) -> Columns:
        """`mask_agreement` of each response in a batch: share of its tokens whose mask matches the true credit."""
        assert self.token_credit is not None
        kept, mask = batch["loss_mask"], batch["response_mask"]
        signs = torch.ones(len(mask), dtype=torch.int64, device=mask.device)
        return {"mask_agreement": mask_agreement(kept, self.token_credit(batch), signs, mask)}

    def compute_loss(self, model: nn.Module, inputs: Batch, *args: Any, **kwargs: Any) -> Any:
        self.record({name: inputs[name] for name in ("segments", "mask_agreement") if name in inputs})
        return super().compute_loss(model, inputs, *args, **kwargs)

    def report_examples(self) -> list[Any]:
        if not isinstance(self.processing_class, PreTrainedTokenizerBase):
            return []
        shown = head(self.train_dataset, self.args.report_responses)
        return [
            report_example(
                "accepted",
                row["prompt_ids"],
                row["response_ids"],
                row["token_rewards"],
                1,
                self.thresholds,
                row["baseline"],
                self.processing_class,
                self.response_tokens.end_ids,
            )
            for row in shown
        ]
