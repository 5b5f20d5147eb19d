"""Equal rewards: standardizing them must not turn rounding errors into a signal."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import segkernel
from segkernel.training import ASRPPOConfig, ASRPPOTrainer, PPOConfig, PPOTrainer
from segkernel.training.rounding import rounding_error
from segkernel.training.segmentation.entropy import Segmenter
from segkernel.training.segmentation.options import SegmentOptions
from segkernel.training.segmentation.rows import TokenRows
from segkernel.training.segmentation.thresholds import Thresholds
from tests.training.trainer_helpers import QUICK, prompts, tiny_lm, weights

# 0.7, and what sums of ten summands near 0.07 make of it.
EQUAL = [0.7, 0.70000005, 0.69999999, 0.7, 0.7000001]


def last_token_scores(batch: dict[str, Tensor]) -> Tensor:
    """A reward of 0.7 for every response."""
    return torch.full(batch["input_ids"].shape, 0.7)


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_whitened_advantages_are_0_where_they_are_equal(tmp_path: Path, tokenizer: Any, scale: float) -> None:
    config = PPOConfig(str(tmp_path), **QUICK, max_new_tokens=6, max_prompt_length=16)
    trainer = PPOTrainer(tiny_lm(tokenizer), config, prompts(4), None, tokenizer, reward_model=last_token_scores)
    mask = torch.tensor([[True, True, True, True, True, False]])
    equal = torch.tensor([[*EQUAL, 9.0]]) * scale
    assert trainer.whiten(equal, trainer.rounding_error(equal[mask]), mask).tolist() == [[0.0] * 6]
    # 1, 1, 1, 1, 2: mean 1.2, deviation 0.4.
    apart = torch.tensor([[1.0, 1.0, 1.0, 1.0, 2.0, 9.0]]) * scale
    whitened = trainer.whiten(apart, trainer.rounding_error(apart[mask]), mask)
    torch.testing.assert_close(whitened, torch.tensor([[-0.5, -0.5, -0.5, -0.5, 2.0, 0.0]]))


@pytest.mark.parametrize(("config_type", "trainer_type"), [(PPOConfig, PPOTrainer), (ASRPPOConfig, ASRPPOTrainer)])
def test_constant_reward_trains_no_token(tmp_path: Path, tokenizer: Any, config_type: Any, trainer_type: Any) -> None:
    options = {"max_new_tokens": 6, "max_prompt_length": 16, "max_steps": 1, "rollout_epochs": 1}
    options |= {"gae_lambda": 1.0, "optim": "sgd", "learning_rate": 1.0, "logging_steps": 1}
    trainer = trainer_type(
        tiny_lm(tokenizer),
        config_type(str(tmp_path), **{**QUICK, **options}),
        prompts(4),
        None,
        tokenizer,
        reward_model=last_token_scores,
    )
    before = weights(trainer)
    trainer.train()
    assert not trainer.rollouts.rollout["advantages"].any()
    for name, value in weights(trainer).items():
        assert torch.equal(value, before[name]) or name.startswith("value."), name
    if trainer_type is ASRPPOTrainer:  # every response is as good as the mean, so none has a sign
        assert not trainer.rollouts.rollout["policy_mask"].any()
        assert trainer.state.log_history[0]["skipped_steps"] == 1


@pytest.mark.parametrize("unit", ["std", "noise"])
@pytest.mark.parametrize("baseline", ["mean", "median", "sequence", "prompt"])
@pytest.mark.parametrize("scale", [1.0, -1e4])
def test_equal_token_rewards_are_neutral(baseline: str, unit: Any, scale: float) -> None:
    rewards = scale * torch.tensor(EQUAL)
    options = SegmentOptions(baseline=baseline, delta=0.5, threshold_unit=unit)
    rows = TokenRows(rewards, torch.tensor([0, 5]))
    thresholds = Thresholds.fit(rows, options)
    segments = thresholds.segment(rows, thresholds.baselines(rows, torch.tensor([0])), torch.tensor([1.0]))
    assert not segments.mask.any()


def test_normalizer_of_equal_rewards_subtracts_their_mean_only() -> None:
    rewards = 1000 * torch.tensor([[0.7, 0.70000005, 0.7], [0.7, 0.69999999, 0.7]])
    counts = torch.tensor([3, 3])
    segmenter = Segmenter.fit(rewards, counts, entropy_threshold=1.0, min_length=1)
    assert segmenter.mean == pytest.approx((0.0, 700.0))
    assert segmenter.std == (0.0, 1.0)
    normalized = segmenter.normalize(rewards, counts)
    assert normalized.abs().max() < 1e-3
    assert segmenter.normalize(rewards + 2, counts) == pytest.approx(2.0, abs=1e-3)


def test_fitted_spread_of_equal_rewards_is_0() -> None:
    rewards = torch.full((50, 3), 1000.7)
    mean, std = segkernel.fit_location_normalizer(rewards, torch.full((50,), 3))
    assert std == pytest.approx((0.0, 0.0), abs=1e-9)
    assert mean == pytest.approx((0.0, rewards[0, 0].item()))


def test_rounding_error_follows_the_largest_magnitude() -> None:
    assert rounding_error(torch.tensor([1.0, -4.0])).item() == 4 * 32 * 2**-23
    assert rounding_error(torch.empty(0)).item() == 0.0
