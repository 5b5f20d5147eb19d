"""Warnings of segments that are noise, and of masks that separate the pairs by themselves."""

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EvalPrediction

import segkernel
from segkernel.training import ASRDPOConfig, ASRDPOTrainer, DPOConfig, DPOTrainer
from segkernel.training.data.columns import PAIRS
from segkernel.training.data.tables import to_dataset
from segkernel.training.segmentation.lengths import median_length, warn_of_short_segments
from segkernel.training.segmentation.separation import SideTokens, token_bias_accuracy, warn_of_separation
from tests.training.trainer_helpers import QUICK_PAIRS, tiny_lm


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 1, 1, 1]], math.inf),  # not cut
        ([[1, 1, 1, -1, -1, -1]], 3),
        ([[1, 1, 1, -1, -1, -1], [1, -1, -1, 1]], 2),  # 3 3 1 2 1
        ([[1], [-1], [1], [1, -1]], math.inf),  # most responses are a token long
    ],
)
def test_median_length_of_segments_literals(rows: list[list[float]], expected: float) -> None:
    lengths = torch.tensor([len(row) for row in rows])
    offsets = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    rewards = torch.tensor([reward for row in rows for reward in row], dtype=torch.float32)
    segments = segkernel.segment(rewards, delta=0.5, cu_seqlens=offsets)
    assert median_length(segments, torch.arange(len(rows)).repeat_interleave(lengths)) == expected


@pytest.mark.parametrize(("length", "warned"), [(1, "at most 1 token."), (2, "at most 2 tokens."), (3, "")])
def test_short_segments_are_reported_below_three_tokens(
    caplog: pytest.LogCaptureFixture, length: int, warned: str
) -> None:
    rewards = torch.tensor([1.0, -1.0]).repeat_interleave(length).repeat(2)
    segments = segkernel.segment(rewards, delta=0.5, cu_seqlens=torch.tensor([0, len(rewards)]))
    assert warn_of_short_segments(segments, torch.zeros(len(rewards), dtype=torch.int64)) == bool(warned)
    assert warned in caplog.text
    assert len(caplog.records) == bool(warned)


def accuracy_by_hand(rows: list[dict[str, Any]], prompts: list[int]) -> float:
    """Naive Bayes over the tokens under the masks, one pair at a time."""

    def tokens(row: dict[str, Any], side: str) -> list[int]:
        return [t for t, kept in zip(row[f"{side}_ids"], row[f"{side}_mask"], strict=True) if kept]

    kinds = {token for row in rows for side in ("chosen", "rejected") for token in tokens(row, side)}
    right = []
    for row, prompt in zip(rows, prompts, strict=True):
        others = [other for other, number in zip(rows, prompts, strict=True) if number != prompt]
        pools = {side: [t for other in others for t in tokens(other, side)] for side in ("chosen", "rejected")}

        def bias(token: int, pools: dict[str, list[int]] = pools) -> float:
            shares = {s: (pool.count(token) + 1) / (len(pool) + len(kinds)) for s, pool in pools.items()}
            return math.log(shares["chosen"] / shares["rejected"])

        margin = sum(map(bias, tokens(row, "chosen"))) - sum(map(bias, tokens(row, "rejected")))
        right.append(0.5 if abs(margin) < 1e-12 else float(margin > 0))
    return sum(right) / len(right)


def random_pairs(count: int) -> tuple[list[dict[str, Any]], list[int]]:
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        row: dict[str, Any] = {"prompt_ids": [1]}
        for side, common in (("chosen", 3), ("rejected", 5)):
            length = int(generator.integers(1, 7))
            row[f"{side}_ids"] = np.where(
                generator.random(length) < 0.3, common, generator.integers(3, 9, length)
            ).tolist()
            row[f"{side}_mask"] = (generator.random(length) < 0.7).tolist()
        row["chosen_mask"][0] = True
        rows.append(row)
    return rows, generator.integers(0, count // 2, count).tolist()


def test_token_bias_accuracy_matches_naive_bayes_by_hand() -> None:
    rows, prompts = random_pairs(30)
    dataset = to_dataset(rows, PAIRS)
    tokens = SideTokens.of_pairs(dataset, np.array(prompts))
    kept = np.concatenate([row[f"{side}_mask"] for row in rows for side in ("chosen", "rejected")])
    found = token_bias_accuracy(tokens.where(kept))
    assert found == pytest.approx(accuracy_by_hand(rows, prompts))
    assert 0.5 < found < 1
    assert math.isnan(token_bias_accuracy(tokens.where(kept & False)))


@pytest.mark.parametrize(
    ("count", "chosen", "rejected", "warned"),
    [
        (20, [5, 6], [6, 5], True),  # the same tokens on both sides, 5 kept here and 6 there
        (19, [5, 6], [6, 5], False),  # too few prompts to say
        (20, [5, 6], [5, 7], False),  # the mask keeps the same on both sides
        (20, [5, 7], [6, 7], False),  # whole responses are separated as well
    ],
)
def test_masks_that_separate_pairs_by_their_tokens_are_reported(
    caplog: pytest.LogCaptureFixture, count: int, chosen: list[int], rejected: list[int], warned: bool
) -> None:
    mask = [True, False]
    row = {"chosen_ids": chosen, "rejected_ids": rejected, "chosen_mask": mask, "rejected_mask": mask}
    warn_of_separation(to_dataset([row] * count, PAIRS), np.arange(count))
    assert ("ranks 100 % of them right under the mask and 50 % as whole" in caplog.text) == warned
    assert len(caplog.records) == warned


def test_asr_dpo_warns_once_about_its_training_pairs(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[dict[str, Any]] = [
        {
            "prompt_ids": [5, index + 20],
            "chosen_ids": [7, 8, 7, 8],
            "rejected_ids": [8, 7, 8, 7],
            "chosen_token_rewards": [1.0, -1.0, 1.0, -1.0],
            "rejected_token_rewards": [-1.0, 1.0, -1.0, 1.0],
        }
        for index in range(20)
    ]
    config = ASRDPOConfig(str(tmp_path), token_rewards="column", **QUICK_PAIRS)
    with caplog.at_level(logging.WARNING):
        ASRDPOTrainer(tiny_lm(tokenizer), config, rows, rows, tokenizer)
    warnings = [record.getMessage() for record in caplog.records]
    assert sum("half of them have at most 1 token." in text for text in warnings) == 1
    assert sum("ranks 100 % of them right under the mask and 50 % as whole" in text for text in warnings) == 1


def test_evaluation_warns_once_when_only_the_mask_ranks_pairs_right(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"prompt_ids": [5], "chosen_ids": [7], "rejected_ids": [8], "chosen_mask": [True]}] * 2
    trainer = DPOTrainer(tiny_lm(tokenizer), DPOConfig(str(tmp_path), **QUICK_PAIRS), rows, rows, tokenizer)
    names = ["masked_rewards/accuracies", "rewards/accuracies"]
    trainer._metric_names = names
    caplog.clear()
    for table, count in (([[1, 1], [1, 1]], 0), ([[1, 1], [0, 0]], 0), ([[1, 1], [1, 0]], 1), ([[1, 0], [1, 0]], 1)):
        prediction = EvalPrediction(predictions=np.array(table, dtype=float), label_ids=np.zeros(2))
        trainer.mean_metrics(prediction)
        assert len(caplog.records) == count
    assert "100 % of the held-out pairs are ranked right under the loss mask, but 50 % as whole" in caplog.text
