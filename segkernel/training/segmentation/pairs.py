"""Columns of preference pairs made by segmentation: token rewards, loss masks, agreement with the true credit."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.collators import PreferenceCollator
from segkernel.training.data.columns import PAIRS, SEQUENCE_SIGNS, SIDES
from segkernel.training.data.tables import FlatLists, columns_of_sides, flat_sides, to_table, with_columns
from segkernel.training.rewards.prefix_scores import token_rewards
from segkernel.training.rewards.reward_model import prefix_scorer
from segkernel.training.segmentation.credit import TokenCredit, mask_agreement
from segkernel.training.segmentation.thresholds import Thresholds
from segkernel.training.trainer.base import SegkernelConfig
from segkernel.training.trainer.batches import Batch, Columns, Lists, map_batches

logger = logging.getLogger(__name__)


def with_token_rewards(
    pairs: Dataset,
    reward_model: nn.Module | Callable[..., Any],
    kind: str,
    collator: PreferenceCollator,
    args: SegkernelConfig,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Dataset:
    """Add `chosen_token_rewards` and `rejected_token_rewards`, derived from the scores of every prefix.

    Raises:
        ValueError: a score of a response is not finite.
    """
    scorer = prefix_scorer(reward_model, args.device, tokenizer, every_prefix=True)

    def columns(batch: Batch) -> Columns:
        rewards, mask = token_rewards(scorer(batch), batch, kind), batch["response_mask"].flatten(0, 1)
        if not rewards[mask].isfinite().all():
            raise ValueError("reward_model: expected finite scores, got NaN or infinity for a response of the data")
        return {"token_rewards": Lists(rewards, mask)}

    return map_batches(columns, pairs, collator, args, "token rewards")


def with_masks(pairs: Dataset, thresholds: Thresholds) -> Dataset:
    """Add `chosen_mask`, `rejected_mask` (response tokens to train on) and `segments` (their numbers)."""
    signs = np.tile(np.array(SEQUENCE_SIGNS, dtype=np.int64), len(pairs))
    masks, counts = thresholds.loss_masks(flat_sides(pairs, "token_rewards"), signs)
    segments = FlatLists(counts.numpy(), np.full(len(pairs), 2)).to_arrow()
    columns = {**columns_of_sides("mask", masks), "segments": segments}
    return with_columns(pairs, columns, PAIRS)


def with_mask_agreement(
    pairs: Dataset, token_credit: TokenCredit, collator: PreferenceCollator, args: SegkernelConfig
) -> Dataset:
    """Add `mask_agreement`: the share of each response's tokens whose mask agrees with the true credit."""

    def columns(batch: Batch) -> Columns:
        kept, mask = batch["loss_mask"].flatten(0, 1), batch["response_mask"].flatten(0, 1)
        signs = torch.tensor(SEQUENCE_SIGNS, device=mask.device).repeat(len(mask) // 2)
        return {"mask_agreement": mask_agreement(kept, token_credit(batch), signs, mask).view(-1, 2)}

    return map_batches(columns, pairs, collator, args, "true credit")


def check_token_rewards(pairs: Dataset, name: str) -> None:
    """Refuse pairs without token rewards of both responses."""
    table = to_table(pairs)
    columns = [f"{side}_token_rewards" for side in SIDES]
    for column in columns:
        missing = np.arange(len(pairs))
        if column in table.column_names:
            missing = np.flatnonzero(table[column].is_null().to_numpy())
        if len(missing):
            present = sorted(key for key, value in pairs[int(missing[0])].items() if value is not None)
            raise ValueError(f"{name}[{missing[0]}]: expected {' and '.join(columns)}, got {present}")


def log_kept(pairs: Dataset, thresholds: Thresholds) -> None:
    kept, lengths = flat_sides(pairs, "mask")
    starts = np.cumsum(lengths.reshape(-1, 2).sum(1)) - lengths.reshape(-1, 2).sum(1)
    empty = int((np.add.reduceat(kept, starts, dtype=np.int64) == 0).sum())
    if empty == len(pairs):
        raise ValueError(
            f"delta: no segment of any training pair agrees with its response, so there is nothing to train on; "
            f"got {thresholds}"
        )
    logger.warning(
        "segments: %.0f %% of the response tokens are trained on; %d of %d pairs keep no token",
        100 * kept.mean(),
        empty,
        len(pairs),
    )
