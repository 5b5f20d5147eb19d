"""Examples for the report: responses with their token rewards, segments and loss masks."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.columns import SEQUENCE_SIGNS, SIDES
from segkernel.training.data.token_texts import token_texts
from segkernel.training.report.example import Example, example_from_segments
from segkernel.training.segmentation.thresholds import Thresholds


def report_examples(
    rows: Iterable[Mapping[str, Any]], thresholds: Thresholds, tokenizer: PreTrainedTokenizerBase
) -> list[Example]:
    """Report examples of both responses of pairs with token rewards, cut into segments."""
    examples = []
    for row in rows:
        for side, sign in zip(SIDES, SEQUENCE_SIGNS, strict=True):
            response = (row["prompt_ids"], row[f"{side}_ids"], row[f"{side}_token_rewards"])
            examples.append(report_example(side, *response, sign, thresholds, tokenizer))
    return examples


def report_example(
    label: str,
    prompt_ids: list[int],
    response_ids: list[int],
    token_rewards: list[float],
    sign: int,
    thresholds: Thresholds,
    tokenizer: PreTrainedTokenizerBase,
) -> Example:
    """Report example of one response with token rewards, cut into segments."""
    return example_from_segments(
        str(tokenizer.decode(prompt_ids, skip_special_tokens=True)),
        label,
        token_texts(response_ids, tokenizer),
        token_rewards,
        thresholds.segment(torch.tensor([token_rewards]), None, torch.tensor([sign])),
        baseline=thresholds.baseline,
        delta=thresholds.delta,
        pivot_threshold=thresholds.pivot_threshold,
    )
