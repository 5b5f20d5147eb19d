"""Columns of preference pairs made by segmentation: token rewards, loss masks, agreement with the true credit."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.collators import PreferenceCollator
from segkernel.training.data.columns import PAIRS, SEQUENCE_SIGNS, SIDES
from segkernel.training.data.tables import FlatLists, columns_of_sides, flat_lists, flat_sides, to_table, with_columns
from segkernel.training.rewards.prefix_scores import token_rewards
from segkernel.training.rewards.reward_model import prefix_scorer
from segkernel.training.segmentation.credit import TokenCredit, mask_agreement
from segkernel.training.segmentation.lengths import warn_of_short_segments
from segkernel.training.segmentation.options import SegmentOptions
from segkernel.training.segmentation.rows import TokenRows
from segkernel.training.segmentation.separation import warn_of_separation
from segkernel.training.segmentation.smoothing import smooth
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


def with_smoothed_rewards(pairs: Dataset, window: int, end_ids: Sequence[int] = ()) -> Dataset:
    """Replace `chosen_token_rewards` and `rejected_token_rewards` by their moving average (`smooth`)."""
    if window == 1:
        return pairs
    rewards = smooth(reward_rows(pairs, end_ids), window)
    lists = FlatLists(rewards.values.double().numpy(), rewards.lengths.numpy())
    return with_columns(pairs, columns_of_sides("token_rewards", lists), PAIRS)


def fit_to_pairs(pairs: Dataset, options: SegmentOptions, end_ids: Sequence[int] = ()) -> Thresholds:
    """Thresholds fitted to the columns `chosen_token_rewards` and `rejected_token_rewards` of training pairs.

    Args:
        pairs: pairs with smoothed token rewards.
        options: thresholds in their unit.
        end_ids: tokens that end a response, whose rewards do not count.
    """
    return Thresholds.fit(reward_rows(pairs, end_ids), options)


def reward_rows(pairs: Dataset, end_ids: Sequence[int]) -> TokenRows:
    """Token rewards of both responses of every pair."""
    rewards = flat_sides(pairs, "token_rewards")
    if not end_ids:
        return TokenRows.of_lists(rewards)
    ids = flat_sides(pairs, "ids")
    return TokenRows.of_lists(rewards, torch.from_numpy(np.isin(ids.values[ids.offsets[1:] - 1], end_ids)))


def prompt_numbers(pairs: Dataset) -> Tensor:
    """Numbers of the pairs' prompts, `[pairs]` int64: equal for equal prompts."""
    prompts = flat_lists(pairs, "prompt_ids")
    numbers: dict[bytes, int] = {}
    keys = [ids.tobytes() for ids in np.split(prompts.values, prompts.offsets[1:-1])]
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys])


def with_masks(pairs: Dataset, thresholds: Thresholds, end_ids: Sequence[int] = (), *, warn: bool = False) -> Dataset:
    """Add `chosen_mask`, `rejected_mask` (response tokens to train on), `segments` (their numbers) and `baseline`.

    Args:
        pairs: pairs with smoothed token rewards.
        thresholds: thresholds of the trigger.
        end_ids: tokens that end a response, which are never suppressed.
        warn: whether to log warnings about segments and masks that a training does not profit from.
    """
    rewards = reward_rows(pairs, end_ids)
    prompts = prompt_numbers(pairs)
    baselines = thresholds.baselines(rewards, prompts.repeat_interleave(2))
    segments = thresholds.segment(rewards, baselines, torch.tensor(SEQUENCE_SIGNS).repeat(len(pairs)))
    assert segments.mask is not None  # since signs were given
    columns = columns_of_sides("mask", FlatLists(segments.mask.numpy(), rewards.lengths.numpy()))
    for name, values in {"segments": segments.counts, "baseline": baselines}.items():
        columns[name] = FlatLists(values.numpy(), np.full(len(pairs), 2)).to_arrow()
    pairs = with_columns(pairs, columns, PAIRS)
    if warn:
        warn_of_short_segments(segments, rewards.rows)
        warn_of_separation(pairs, prompts.numpy())
    return pairs


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
