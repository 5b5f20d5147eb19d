"""Segment-masked DPO and KTO in TRL: Adaptive Segment-level Reward (arXiv 2411.00809)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from segkernel.ops.segment import segment

Example = Mapping[str, Any]

# Columns of a row by the completion they describe: tokens, loss mask.
COMPLETIONS = {"chosen_ids": "chosen_mask", "rejected_ids": "rejected_mask", "completion_ids": "mask"}


def segment_masks(rows: Mapping[str, Sequence[Any]], **options: Any) -> dict[str, list[list[bool]]]:
    """Columns of loss masks for rows with token rewards; for `datasets.Dataset.map(..., batched=True)`.

    The completion's tokens are split into segments. A segment is trained on if its sign agrees with the completion's:
    +1 for a chosen or desirable one, -1 for a rejected or undesirable one.

    Args:
        rows: columns of pairs, `chosen_token_rewards` and `rejected_token_rewards`, or of single completions,
            `token_rewards` and `label`. One reward per token of the completion, as TRL tokenizes it: with the token
            that ends it.
        options: of `segkernel.segment`: `pivot_threshold`, `baseline`, `delta`, `hold`, `reduce`, `keep_neutral`.

    Returns:
        `chosen_mask` and `rejected_mask`, or `mask`.

    Raises:
        ValueError: `rows` has neither kind of columns, or a row without token rewards.

    Example:
        >>> from segkernel.integrations.trl import segment_masks
        >>> rows = {"chosen_token_rewards": [[0.0, 2.0, -2.0]], "rejected_token_rewards": [[1.0, -1.0]]}
        >>> segment_masks(rows, delta=0.5)
        {'chosen_mask': [[False, True, False]], 'rejected_mask': [[False, True]]}
    """
    if "chosen_token_rewards" in rows and "rejected_token_rewards" in rows:
        return {
            f"{side}_mask": _masks(f"{side}_token_rewards", rows, [sign] * len(rows["chosen_token_rewards"]), options)
            for side, sign in (("chosen", 1.0), ("rejected", -1.0))
        }
    if "token_rewards" in rows and "label" in rows:
        return {"mask": _masks("token_rewards", rows, [1.0 if label else -1.0 for label in rows["label"]], options)}
    raise ValueError(
        "rows: expected columns chosen_token_rewards and rejected_token_rewards, or token_rewards and label, got "
        f"{', '.join(sorted(rows))}"
    )


def _masks(
    column: str, rows: Mapping[str, Sequence[Any]], signs: Sequence[float], options: Mapping[str, Any]
) -> list[list[bool]]:
    rewards: Sequence[Sequence[float]] = rows[column]
    for row, values in enumerate(rewards):
        if values is None:
            raise ValueError(f"{column}: expected one number per token, got None in row {row}")
    lengths = [len(row) for row in rewards]
    packed = torch.tensor([value for row in rewards for value in row], dtype=torch.float32)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
    mask = segment(packed, cu_seqlens=cu_seqlens, sequence_sign=torch.tensor(signs), **options).mask
    assert mask is not None  # since signs were given
    return [part.tolist() for part in mask.split(lengths)]


class SegmentPreferenceCollator:
    """Collator that takes tokens outside of their loss mask out of `completion_mask`.

    TRL's trainers read log-probs only under `completion_mask`, so a DPO or KTO loss becomes that of the kept segments.
    The rows need the columns `chosen_mask` and `rejected_mask`, or `mask` for KTO: one value per token of
    `chosen_ids`, `rejected_ids` or `completion_ids`, for example from `segment_masks`. Therefore the trainer's config
    needs `remove_unused_columns=False`. KTO's KL estimate uses whole completions. A pair whose masks are empty on both
    sides has no gradient, but TRL counts its loss of ln 2.

    With the masks as columns of the data, `precompute_ref_log_probs=True` is safe: TRL's cache depends on the columns,
    not on the collator.

    Args:
        collator: the collator that the trainer would use, with its truncation:
            `trl.trainer.dpo_trainer.DataCollatorForPreference` or
            `trl.trainer.kto_trainer.DataCollatorForUnpairedPreference`.

    Raises:
        ValueError: a row without a mask, or with one of another length than its tokens.

    Example:
        >>> from segkernel.integrations.trl import SegmentPreferenceCollator
        >>> from trl.trainer.dpo_trainer import DataCollatorForPreference  # doctest: +SKIP
        >>> collator = SegmentPreferenceCollator(DataCollatorForPreference(pad_token_id=0))  # doctest: +SKIP
    """

    def __init__(self, collator: Callable[[list[Example]], dict[str, Any]]) -> None:
        self.collator = collator

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        # The masks go through the collator in the place of the tokens, and are padded and truncated like them.
        batch = self.collator(list(examples))
        kept: Tensor = self.collator([_with_masks_as_ids(example) for example in examples])["input_ids"]
        batch["completion_mask"] = batch["completion_mask"] * kept
        return batch


def _with_masks_as_ids(example: Example) -> dict[str, Any]:
    """Row whose completions' tokens are 1 if they are trained on, otherwise 0."""
    changed = dict(example)
    for ids, mask in COMPLETIONS.items():
        if ids not in example:
            continue
        if example.get(mask) is None:
            raise ValueError(
                f"{mask}: expected a column of one value per token, got {', '.join(sorted(example))}; the trainer's "
                "config needs remove_unused_columns=False"
            )
        if len(example[mask]) != len(example[ids]):
            raise ValueError(
                f"{mask}: expected {len(example[ids])} values, one per token of {ids}, got {len(example[mask])}"
            )
        changed[ids] = [int(bool(value)) for value in example[mask]]
    return changed
