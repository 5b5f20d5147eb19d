"""Columns of preference pairs made by selecting tokens: scores, weights and loss masks."""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.collators import PreferenceCollator
from segkernel.training.data.columns import PAIRS, SIDES
from segkernel.training.data.tables import flat_sides, head, with_columns
from segkernel.training.data.token_texts import token_texts
from segkernel.training.report.sample import Sample
from segkernel.training.selection.random_tokens import random_mask
from segkernel.training.selection.scores import evaluating, finite_logprobs
from segkernel.training.trainer.base import SegkernelConfig
from segkernel.training.trainer.batches import Batch, Columns, Lists, map_batches

logger = logging.getLogger(__name__)


def with_random_masks(
    pairs: Dataset,
    shares: tuple[float, float],
    piece_length: float,
    key: tuple[int, ...],
    collator: PreferenceCollator,
    args: SegkernelConfig,
) -> Dataset:
    """Add `chosen_mask` and `rejected_mask`: tokens chosen at random among those of the rows' own masks.

    Args:
        pairs: encoded pairs.
        shares: share of the chosen and of the rejected responses' tokens.
        piece_length: mean length of a piece (`random_tokens`).
        key: key of the data set; the row and the side complete it.
        collator, args: those of the trainer.
    """
    numbered = with_columns(pairs, {"row": np.arange(len(pairs))}, PAIRS)

    def columns(batch: Batch) -> Columns:
        kept, mask = (batch[name].flatten(0, 1) for name in ("loss_mask", "response_mask"))
        keys = [(*key, row, side) for row in batch["row"].tolist() for side in (0, 1)]
        chosen = random_mask(mask, shares * (len(mask) // 2), piece_length, keys)
        return {"mask": Lists(chosen & kept, mask)}

    return map_batches(columns, numbered, collator, args, "random masks")


def with_log_ratios(
    pairs: Dataset,
    models: tuple[tuple[str, nn.Module], tuple[str, nn.Module]],
    columns: Callable[[Tensor, Batch], Columns],
    collator: PreferenceCollator,
    args: SegkernelConfig,
) -> Dataset:
    """Add `chosen_token_rewards` and `rejected_token_rewards`, the log-ratio of two models at each token, and columns
    that follow from it.

    Args:
        pairs: encoded pairs.
        models: the two models with their names in messages; the ratio is that of the first to the second.
        columns: function from the log-ratios of a batch, `[2 * B, T]`, and the batch to further columns.
        collator, args: those of the trainer.

    Raises:
        ValueError: a log-probability of a response token is not finite.
    """

    def found(batch: Batch) -> Columns:
        mask = batch["response_mask"].flatten(0, 1)
        numerator, denominator = (finite_logprobs(name, model, batch) for name, model in models)
        ratios = numerator - denominator
        return {"token_rewards": Lists(ratios, mask), **columns(ratios, batch)}

    with evaluating(*(model for _, model in models)):
        return map_batches(found, pairs, collator, args, "token scores")


def drop_half_empty(masks: Tensor) -> Tensor:
    """Masks `[B, 2, T]` of pairs, cleared where one side of a pair has no token: a mean over it does not exist.

    Example:
        >>> import torch
        >>> drop_half_empty(torch.tensor([[[True, False], [False, True]], [[True, True], [False, False]]]))
        tensor([[[ True, False],
                 [False,  True]],
        <BLANKLINE>
                [[False, False],
                 [False, False]]])
    """
    return masks & masks.any(-1).all(1)[:, None, None]


def log_selected(pairs: Dataset, hint: str) -> None:
    """Log the share of the training tokens under the masks, and the pairs without a token.

    Args:
        pairs: training pairs with masks.
        hint: option to change, for the error.

    Raises:
        ValueError: no pair has a token.
    """
    kept, lengths = flat_sides(pairs, "mask")
    sums = np.zeros(len(lengths), dtype=np.int64)
    np.add.at(sums, np.repeat(np.arange(len(lengths)), lengths), kept)
    empty = int((sums.reshape(-1, 2).sum(1) == 0).sum())
    if empty == len(pairs):
        raise ValueError(f"{hint}: no token of any training pair is selected, so there is nothing to train on")
    chosen, rejected = sums.reshape(-1, 2).sum(0) / lengths.reshape(-1, 2).sum(0)
    logger.warning(
        "selection: %.0f %% of the chosen and %.0f %% of the rejected responses' tokens are trained on; %d of %d "
        "pairs keep no token",
        100 * chosen,
        100 * rejected,
        empty,
        len(pairs),
    )


def pair_samples(rows: Dataset, count: int, tokenizer: Any) -> list[Sample]:
    """Report samples of both responses of the first `count` pairs, colored by their tokens' scores.

    Args:
        rows: pairs with token rewards and masks.
        count: number of pairs.
        tokenizer: tokenizer of the ids; without one there are no samples.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        return []
    return [
        Sample(
            str(tokenizer.decode(row["prompt_ids"], skip_special_tokens=True)),
            side,
            token_texts(row[f"{side}_ids"], tokenizer),
            row[f"{side}_token_rewards"],
            sum(row[f"{side}_token_rewards"]),
            kept=row[f"{side}_mask"],
        )
        for row in head(rows, count)
        for side in SIDES
    ]
