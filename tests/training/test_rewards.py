"""Reward models, token rewards derived from their scores, and thresholds fitted to those."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from segkernel.training import (
    ASRDPOConfig,
    ASRDPOTrainer,
    RewardConfig,
    RewardTrainer,
)
from segkernel.training.data.columns import PAIRS, SIDES
from segkernel.training.data.tables import to_dataset
from segkernel.training.models import load_scoring_model
from segkernel.training.report_examples import report_examples
from segkernel.training.rewards.implicit import ImplicitRewardScorer
from segkernel.training.segmentation.pairs import fit_to_pairs
from segkernel.training.segmentation.thresholds import Thresholds
from segkernel.training.trainer.preference import accuracy_interval
from tests.ops.plain_floats import logprobs_alone
from tests.training.trainer_helpers import (
    QUICK_PAIRS,
    pairs,
    tiny_lm,
    tiny_reward_model,
    tiny_tokenizer,
)


@pytest.mark.parametrize("side", ["right", "left"])
def test_reward_scores_the_last_response_token(tmp_path: Path, tokenizer: Any, side: str) -> None:
    padded = tiny_tokenizer()
    padded.padding_side = side
    model = tiny_reward_model(tokenizer).eval()
    trainer = RewardTrainer(model, RewardConfig(str(tmp_path), **QUICK_PAIRS), pairs(4), None, padded)
    with torch.no_grad():
        losses, metrics = trainer.pair_losses(model, trainer.data_collator(trainer.train_dataset))
        for index, row in enumerate(trainer.train_dataset):
            score = [model(torch.tensor([[*row["prompt_ids"], *row[f"{s}_ids"]]])).logits[0, -1, 0] for s in SIDES]
            torch.testing.assert_close(metrics["scores/chosen"][index], score[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(losses[index], -F.logsigmoid(score[0] - score[1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("side", "score"), [("right", "sum"), ("left", "mean")])
def test_summed_reward_scores_a_response_by_its_own_tokens(
    tmp_path: Path, tokenizer: Any, side: str, score: Any
) -> None:
    padded = tiny_tokenizer()
    padded.padding_side = side
    model = tiny_reward_model(tokenizer).eval()
    config = RewardConfig(str(tmp_path / "reward"), score=score, **QUICK_PAIRS)
    trainer = RewardTrainer(model, config, pairs(4), None, padded)
    with torch.no_grad():
        losses, metrics = trainer.pair_losses(model, trainer.data_collator(trainer.train_dataset))
    outputs = []  # of the response tokens: [side of row 0, ...], with `mean` divided by the mean length
    length = sum(len(row[f"{name}_ids"]) for row in trainer.train_dataset for name in SIDES) / 8
    length = length if score == "mean" else 1
    for index, row in enumerate(trainer.train_dataset):
        for name in SIDES:
            ids, prompt = [*row["prompt_ids"], *row[f"{name}_ids"]], len(row["prompt_ids"])
            with torch.no_grad():
                outputs.append(model(torch.tensor([ids])).logits[0, prompt:, 0] / length)
            torch.testing.assert_close(metrics[f"scores/{name}"][index], outputs[-1].sum(), rtol=1e-4, atol=1e-5)
    margins = torch.stack([one.sum() - other.sum() for one, other in zip(outputs[::2], outputs[1::2], strict=True)])
    torch.testing.assert_close(losses, -F.logsigmoid(margins), rtol=1e-4, atol=1e-5)

    # The saved model says how it is read: the differences of its prefix scores are its scaled outputs.
    trainer.save_model()
    padded.save_pretrained(tmp_path / "reward")
    scorer = load_scoring_model(str(tmp_path / "reward"), padded)
    rewarded = ASRDPOTrainer(
        tiny_lm(tokenizer),
        ASRDPOConfig(str(tmp_path / "asr"), **QUICK_PAIRS),
        pairs(4),
        None,
        padded,
        reward_model=scorer,
    )
    found = [torch.tensor(row[f"{name}_token_rewards"]) for row in rewarded.train_dataset for name in SIDES]
    for expected, rewards in zip(outputs, found, strict=True):
        torch.testing.assert_close(rewards.float(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["difference", "prefix"])
def test_token_rewards_match_scores_of_separate_prefixes(tmp_path: Path, tokenizer: Any, kind: str) -> None:
    scorer = tiny_reward_model(tokenizer).eval()
    config = ASRDPOConfig(str(tmp_path), token_rewards=kind, **QUICK_PAIRS)
    trainer = ASRDPOTrainer(tiny_lm(tokenizer), config, pairs(5), None, tokenizer, reward_model=scorer)
    for row in trainer.train_dataset:
        for side in SIDES:
            ids, prompt = [*row["prompt_ids"], *row[f"{side}_ids"]], len(row["prompt_ids"])
            with torch.no_grad():
                # Scores of separate prefixes: the model is causal; padding and batch make no difference.
                score = [scorer(torch.tensor([ids[:end]])).logits[0, -1, 0] for end in range(prompt, len(ids) + 1)]
            scores = torch.stack(score)
            expected = scores[1:] if kind == "prefix" else scores.diff()
            torch.testing.assert_close(torch.tensor(row[f"{side}_token_rewards"]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_implicit_rewards_match_log_ratios(tmp_path: Path, side: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = side
    policy, reference = tiny_lm(tokenizer, seed=3), tiny_lm(tokenizer, seed=4)
    scorer = ImplicitRewardScorer(policy, reference, beta=0.3)
    rows = [
        {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9, 1], "rejected_ids": [1]},
        {"prompt_ids": [14], "chosen_ids": [15, 1], "rejected_ids": [16, 17, 18, 1]},
    ]
    trainer = ASRDPOTrainer(
        tiny_lm(tokenizer), ASRDPOConfig(str(tmp_path), **QUICK_PAIRS), rows, None, tokenizer, reward_model=scorer
    )
    for row, source in zip(trainer.train_dataset, rows, strict=True):
        for name in SIDES:
            # r_t = beta (log pi - log pi_ref)
            ours, theirs = (logprobs_alone(m, source["prompt_ids"], source[f"{name}_ids"]) for m in (policy, reference))
            expected = [0.3 * (a - b) for a, b in zip(ours, theirs, strict=True)]
            assert row[f"{name}_token_rewards"] == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_reward_trainer_learns_and_reports_its_interval(tmp_path: Path, tokenizer: Any) -> None:
    config = RewardConfig(str(tmp_path), **{**QUICK_PAIRS, "num_train_epochs": 15, "learning_rate": 5e-3})
    trainer = RewardTrainer(tiny_reward_model(tokenizer), config, pairs(), pairs(), tokenizer)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.5 * before["eval_loss"]
    assert after["eval_accuracy"] >= 11 / 12
    assert after["eval_pairs"] == 12
    low, high = accuracy_interval(round(12 * after["eval_accuracy"]), 12)
    assert (after["eval_accuracy_low"], after["eval_accuracy_high"]) == (low, high)
    assert {"loss", "accuracy", "scores/margin", "grad_norm"} <= trainer.state.log_history[-3].keys()


def test_accuracy_interval_literals() -> None:
    # Wilson (1927): (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), z = 1.959964
    assert accuracy_interval(60, 100) == pytest.approx((0.50200, 0.69060), abs=1e-4)
    assert accuracy_interval(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-4)


def test_thresholds_scale_with_the_rewards() -> None:
    rows = to_dataset([{"chosen_token_rewards": [1.0, 2.0, 6.0], "rejected_token_rewards": [3.0, 3.0]}], PAIRS)
    std = math.sqrt((4 + 1 + 9 + 0 + 0) / 4)
    options = ASRDPOConfig(delta=0.5, pivot_threshold=2.0, threshold_unit="std", use_cpu=True)
    fitted = fit_to_pairs(rows, options)
    assert (fitted.baseline, fitted.delta, fitted.pivot_threshold) == pytest.approx((3.0, 0.5 * std, 2 * std))
    options = ASRDPOConfig(baseline="median", pivot_threshold=2.0, threshold_unit="reward", use_cpu=True)
    fitted = fit_to_pairs(rows, options)
    assert (fitted.baseline, fitted.delta, fitted.pivot_threshold) == (3.0, None, 2.0)
    assert fit_to_pairs(rows, ASRDPOConfig(baseline=-1.5, threshold_unit="std", use_cpu=True)).baseline == -1.5


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"delta": -1.0}, r"delta: expected >= 0, got -1\.0"),
        ({"pivot_threshold": math.nan}, r"pivot_threshold: expected a number, got nan"),
        ({"token_rewards": "scores"}, "token_rewards: expected one of 'difference', 'prefix', 'column', got 'scores'"),
        (
            {"threshold_unit": "deviation"},
            "threshold_unit: expected one of 'quantile', 'std', 'noise', 'reward', got 'deviation'",
        ),
        ({"baseline": "mean"}, "baseline: expected 0 <= baseline <= 1 with threshold_unit `quantile`.*, got 'mean'"),
        ({"baseline": 0.5, "delta": 0.6}, r"delta: expected .* from 0 to 1 .*, got -0\.1 and 1\.1"),
        ({"pivot_threshold": 2.0}, "pivot_threshold: expected <= 1 with threshold_unit `quantile`.*, got 2"),
        ({"baseline": "mode"}, r"baseline: expected `mean`, `median`, `sequence`, `prompt` or a number, got 'mode'"),
    ],
)
def test_segment_options_refuse_values_out_of_range(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ASRDPOConfig(use_cpu=True, **option)


def test_asr_dpo_requires_one_source_of_token_rewards(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="reward_model: expected one for token_rewards='difference'"):
        ASRDPOTrainer(tiny_lm(tokenizer), ASRDPOConfig(str(tmp_path), **QUICK_PAIRS), pairs(), None, tokenizer)
    config = ASRDPOConfig(str(tmp_path), token_rewards="column", **QUICK_PAIRS)
    with pytest.raises(ValueError, match="reward_model: expected none"):
        ASRDPOTrainer(tiny_lm(tokenizer), config, pairs(), None, tokenizer, reward_model=tiny_reward_model(tokenizer))
    with pytest.raises(ValueError, match=r"train_dataset\[0\]: expected chosen_token_rewards .*, got \['chosen_ids', "):
        ASRDPOTrainer(tiny_lm(tokenizer), config, pairs(), None, tokenizer)


def test_report_examples_show_token_texts(tokenizer: Any) -> None:
    row = {
        "prompt_ids": tokenizer("say red")["input_ids"],
        "chosen_ids": tokenizer("red red")["input_ids"],
        "rejected_ids": tokenizer("blue")["input_ids"],
    }
    row["chosen_token_rewards"] = [1.0] * len(row["chosen_ids"])
    row["rejected_token_rewards"] = [1.0] * len(row["rejected_ids"])
    row["baseline"] = [0.0, 0.0]
    chosen, rejected = report_examples([row], Thresholds(0.0, 0.0, 0.5, None), tokenizer, end_ids=[])
    assert (chosen.prompt, "".join(chosen.tokens), chosen.label) == ("say red", "red red", "chosen")
    assert all(chosen.kept)
    assert (rejected.label, any(rejected.kept), rejected.signs) == ("rejected", False, [1])
    assert (chosen.low, chosen.high) == (-0.5, 0.5)
