"""Segment masks as labels of data that LLaMA-Factory has tokenized, for examples/llamafactory_segment_dpo.yaml.

Run: `python -m examples.llamafactory_segments data/tokenized data/segments`. Token rewards are those of
examples/slime_rewards.py here: a repetition costs a point, any other token earns one. Labels of -100 take a token out
of the loss: a chosen response keeps its segments of positive reward, and a rejected one those of negative reward.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from datasets import load_from_disk

from examples.slime_rewards import repetitions
from segkernel.integrations.trl import segment_masks

IGNORED = -100
SIDES = ("chosen", "rejected")


def mask_labels(rows: Mapping[str, Any], delta: float = 0.5) -> dict[str, list[list[int]]]:
    """Columns `chosen_labels` and `rejected_labels` of a batch of rows, -100 outside of the kept segments."""
    masks = segment_masks(
        {
            f"{side}_token_rewards": [
                repetitions([token for token in labels if token != IGNORED]) for labels in rows[f"{side}_labels"]
            ]
            for side in SIDES
        },
        delta=delta,
    )
    changed: dict[str, list[list[int]]] = {f"{side}_labels": [] for side in SIDES}
    for side in SIDES:
        for labels, mask in zip(rows[f"{side}_labels"], masks[f"{side}_mask"], strict=True):
            kept = iter(mask)  # one value per token of the response
            changed[f"{side}_labels"].append(
                [token if token != IGNORED and next(kept) else IGNORED for token in labels]
            )
    return changed


def main(tokenized: str, masked: str) -> None:
    load_from_disk(tokenized).map(mask_labels, batched=True).save_to_disk(masked)


if __name__ == "__main__":
    main(*sys.argv[1:])
