"""Policy mask of ASR-PPO: tokens of the segments whose sign is that of the response."""

from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from torch import Tensor

from segkernel.training import ASRPPOConfig, ASRPPOTrainer
from tests.ops.plain_floats import debounced, in_response, schmitt, scores_alone, smoothed
from tests.training.ppo_helpers import EOS, RESPONSES, collect, each, make


def scored_length(ids: list[int]) -> int:
    """Number of tokens whose rewards count: not that of the EOS."""
    return len(ids) - (ids[-1] == EOS)


def with_end(row: list[float], ids: list[int], alone: float) -> list[float]:
    """Rewards of the tokens; the EOS has that of the token before it, or `alone`."""
    scored = row[: scored_length(ids)]
    return [*scored, (scored or [alone])[-1]] if ids[-1] == EOS else scored


def masked(states: list[int], sign: int, ids: list[int]) -> list[bool]:
    """Mask of the states with the sign of the response; the EOS is never suppressed."""
    return [state == sign and (sign == 1 or token != EOS) for state, token in zip(states, ids, strict=True)]


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("kind", ["difference", "prefix"])
@pytest.mark.parametrize("sequence_baseline", ["mean", "prompt", "0.1"])
def test_asr_policy_mask_keeps_segments_with_the_response_sign(
    tmp_path: Path, tokenizer: Any, hold: bool, kind: str, sequence_baseline: str
) -> None:
    options = {"delta": 0.4, "hold": hold, "token_rewards": kind, "threshold_unit": "std"}
    options["sequence_baseline"] = sequence_baseline
    trainer = make(ASRPPOConfig, ASRPPOTrainer, tmp_path, tokenizer, **options)
    scores = each(scores_alone, trainer.scorer.model)
    rewards = [s[1:] if kind == "prefix" else [b - a for a, b in pairwise(s)] for s in scores]
    flat = [reward for row, ids in zip(rewards, RESPONSES, strict=True) for reward in row[: scored_length(ids)]]
    low, high = mean(flat) - 0.4 * stdev(flat), mean(flat) + 0.4 * stdev(flat)
    against = {"mean": [mean(s[-1] for s in scores)] * 3, "prompt": [s[0] for s in scores]}
    levels = against.get(sequence_baseline, [0.1] * 3)
    expected = [
        masked(schmitt(with_end(row, ids, mean(flat)), low, high, hold=hold), 1 if s[-1] > level else -1, ids)
        for s, row, level, ids in zip(scores, rewards, levels, RESPONSES, strict=True)
    ]
    rollout = collect(trainer)
    assert in_response(rollout["policy_mask"], rollout, RESPONSES) == expected


@pytest.mark.parametrize("kind", ["difference", "prefix"])
def test_asr_policy_mask_follows_smoothing_baseline_and_minimum_length(
    tmp_path: Path, tokenizer: Any, kind: str
) -> None:
    options = {"delta": 0.1, "token_rewards": kind, "smoothing": 2, "baseline": "sequence", "baseline_shift": 0.05}
    options["threshold_unit"] = "std"
    trainer = make(ASRPPOConfig, ASRPPOTrainer, tmp_path, tokenizer, **options, min_segment_length=2)
    scores = each(scores_alone, trainer.scorer.model)
    rewards = [s[1:] if kind == "prefix" else [b - a for a, b in pairwise(s)] for s in scores]
    rewards = [smoothed(row[: scored_length(ids)], 2) for row, ids in zip(rewards, RESPONSES, strict=True)]
    unit = stdev(reward for row in rewards for reward in row)
    expected = []
    for s, row, ids in zip(scores, rewards, RESPONSES, strict=True):
        baseline, sign = mean(row or [0.0]) + 0.05 * unit, 1 if s[-1] > mean(s[-1] for s in scores) else -1
        states = schmitt(with_end(row, ids, baseline), baseline - 0.1 * unit, baseline + 0.1 * unit)
        states = debounced(states, 2)
        expected.append(masked(states, sign, ids))
    rollout = collect(trainer)
    assert in_response(rollout["policy_mask"], rollout, RESPONSES) == expected
    assert 0 < sum(sum(row) for row in expected) < sum(map(len, RESPONSES))


def test_asr_policy_mask_from_pivots_only(tmp_path: Path, tokenizer: Any) -> None:
    """Segments end where the reward jumps; their sign is that of their mean minus the baseline."""

    def scorer(batch: dict[str, Tensor]) -> Tensor:
        known = {11: 1.0, 12: 0.9, 13: -1.0, 14: -0.9, 15: 2.0, 16: 1.9, EOS: 0.5}
        return torch.tensor([[known.get(int(token), 0.0) for token in row] for row in batch["input_ids"]])

    options = {"token_rewards": "prefix", "baseline": 0.0, "pivot_threshold": 0.3, "threshold_unit": "reward"}
    trainer = make(ASRPPOConfig, ASRPPOTrainer, tmp_path, tokenizer, **options, reward_model=scorer)
    rollout = collect(trainer)
    # Sequence rewards 0.5, 0.5, 1.9 minus their mean 0.967: only the third response is positive, and only its second
    # segment agrees. The other responses are negative with positive segments, so nothing of them is kept.
    assert in_response(rollout["policy_mask"], rollout, RESPONSES) == [[0, 0, 0], [0], [0, 0, 1, 1]]
    trainer.log(logs := {"loss": 0.0})
    # Segments: 1.0, 0.9, EOS; EOS; -1.0, -0.9 | 2.0, 1.9
    assert logs["rollout/segments"] == pytest.approx(4 / 3)


def test_asr_logs_mask_agreement_with_token_credit(tmp_path: Path, tokenizer: Any) -> None:
    def credit(batch: dict[str, Tensor]) -> Tensor:
        return torch.where(batch["input_ids"] == 16, 1, -1)

    def scorer(batch: dict[str, Tensor]) -> Tensor:
        return (batch["input_ids"] >= 15).float()

    options = {"token_rewards": "prefix", "reward_model": scorer}
    trainer = make(ASRPPOConfig, ASRPPOTrainer, tmp_path, tokenizer, **options, token_credit=credit)
    trainer.compute_loss(trainer.model, collect(trainer))
    trainer.log(logs := {"loss": 0.0})
    # Rewards 0 0 (0); (0); 0 0 1 1, signs - - +: kept are the first two, none, the last two, since an EOS is never
    # suppressed; by the credit all, all, the last.
    assert logs["kept"] == pytest.approx(4 / 8)
    assert logs["rollout/mask_agreement"] == pytest.approx(5 / 8)
