"""PPO on segment and token rewards against the paper's equations in plain floats, and against `ppo`, its limit."""

import json
import logging
import math
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from torch import Tensor

from segkernel import _cli as cli
from segkernel.training import PPOConfig, PPOTrainer, SegmentPPOConfig, SegmentPPOTrainer, TokenPPOConfig
from segkernel.training.segmentation.entropy import Segmenter
from tests.ops.plain_floats import assert_rows, entropies_alone, gae_by_hand, in_response, logprobs_alone, scores_alone
from tests.ops.segment_helpers import LLAMA3, PHI3, lively_reward_model, segment_ends_by_hand, threshold_amid, unsure_lm
from tests.training.trainer_helpers import (
    QUICK,
    assert_resumes_to_the_same_bits,
    assert_same_bits,
    prompts,
    tiny_lm,
    tiny_reward_model,
    tiny_tokenizer,
    weights,
    write_files,
)

EOS = 1
PROMPTS = [[5, 6, 7], [8], [9, 10], [20, 21, 22, 23]]
# A response with an EOS, one of only the EOS, one of one other token, and one that is cut off.
RESPONSES = [[11, 12, 40, 50, 33, EOS], [EOS], [60], [13, 14, 15, 16, 61, 62, 63]]
ROLLOUT: dict[str, Any] = {
    **QUICK,
    "max_new_tokens": 8,
    "max_prompt_length": 16,
}


def segmenter(threshold: float = 1.75, min_length: int = 1, min_std: float = 0.01, fit: Any = PHI3) -> Segmenter:
    return Segmenter(threshold, min_length, **fit, min_std=min_std)


def make(output_dir: Path, tokenizer: Any, config_type: Any = SegmentPPOConfig, **options: Any) -> SegmentPPOTrainer:
    """Trainer on `PROMPTS` with four different models."""
    settings = {name: value for name, value in options.items() if name in config_type.__dataclass_fields__}
    more = {name: value for name, value in options.items() if name not in settings}
    return SegmentPPOTrainer(
        tiny_lm(tokenizer, seed=1),
        config_type(str(output_dir), **{**ROLLOUT, "per_device_train_batch_size": 3, **settings}),
        [{"prompt_ids": ids} for ids in PROMPTS],
        None,
        tokenizer,
        **{
            "ref_model": unsure_lm(tokenizer),
            "reward_model": lively_reward_model(tokenizer),
            "value_model": tiny_reward_model(tokenizer, seed=6),
            "segmenter": segmenter(),
            **more,
        },
    )


def threshold_in_the_middle(tokenizer: Any) -> float:
    model = unsure_lm(tokenizer)
    return threshold_amid([e for p, r in zip(PROMPTS, RESPONSES, strict=True) for e in entropies_alone(model, p, r)])


# --- rewards in plain floats -----------------------------------------------------------------------------------------


def clip(value: float, bound: float) -> float:
    return min(max(value, -bound), bound)


def dense_rewards_by_hand(
    ends: list[int], scores: list[float], fit: Any, *, min_std: float, bound: float
) -> tuple[list[float], list[float]]:
    """Token rewards, and segment rewards before normalization; `scores` are those of the prefixes y_<=t."""
    rewards, segment_rewards, start = [], [], 0
    for k, end in enumerate(ends, start=1):
        p = k / len(ends)
        location_mean = fit["mean"][0] * math.log(p) + fit["mean"][1]
        location_std = max(fit["std"][0] * math.log(p) + fit["std"][1], min_std)
        length = end + 1 - start
        rewards += [clip((scores[end] - location_mean) / location_std / length, bound)] * length
        segment_rewards.append(scores[end])
        start = end + 1
    return rewards, segment_rewards


@pytest.mark.parametrize("fit", [PHI3, LLAMA3], ids=["phi3", "llama3"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("threshold", "options"),
    [
        ("middle", {}),
        ("middle", {"min_length": 2, "temperature": 0.5}),
        ("middle", {"reward_clip": 0.2}),
        ("middle", {"min_std": 3.2}),
        (0.0, {}),
        (math.inf, {}),
    ],
)
def test_segment_ppo_token_rewards_match_the_equations(
    tmp_path: Path, threshold: Any, options: dict[str, Any], side: str, fit: Any
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = side
    options = dict(options)
    if threshold == "middle":
        threshold = threshold_in_the_middle(tokenizer)
    made = segmenter(threshold, fit=fit, min_std=options.pop("min_std", 0.01))
    trainer = make(tmp_path, tokenizer, segmenter=made, **options)
    with torch.no_grad():
        batch = trainer.evaluate_responses(PROMPTS, RESPONSES)
        found = in_response(trainer.token_rewards(batch), batch, RESPONSES)
        metrics = trainer.describe(batch)

    expected, counts = [], []
    bound = options.get("reward_clip", 10.0)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        # Entropy of the reference at temperature 1, independent of the sampling temperature.
        entropies = entropies_alone(trainer.reference, prompt, response)
        ends = segment_ends_by_hand(entropies, threshold, options.get("min_length", 1))
        scores = scores_alone(trainer.scorer.model, prompt, response)[1:]
        rewards, segment_rewards = dense_rewards_by_hand(ends, scores, fit, min_std=made.min_std, bound=bound)
        expected.append(rewards)
        counts.append(len(ends))
        # The logged reward is the reward model's score: the mean over segments, not normalized.
        assert metrics["reward"][row].item() == pytest.approx(mean(segment_rewards), rel=1e-4)
        assert metrics["segments"][row].item() == len(ends)
    assert_rows(found, expected)

    flat = [abs(reward) for row in expected for reward in row]
    assert (max(flat) == bound) == ("reward_clip" in options)  # the bound is reached where it is low
    assert min(flat) < bound
    lengths = [len(response) for response in RESPONSES]
    if threshold == 0:
        # The EOS is a separate segment.
        assert counts == lengths
    elif threshold == math.inf:
        assert counts == [1] * 4
    else:
        assert len(counts) < sum(counts) < sum(lengths)


def test_location_normalizer_published_values(tmp_path: Path, tokenizer: Any) -> None:
    """Phi-3-mini's fit on a response of 2 + 1 tokens in two segments, computed by hand."""
    known = {11: 0.1, 12: 2.0, 40: -1.0}

    def scorer(batch: dict[str, Tensor]) -> Tensor:
        return torch.tensor([[known.get(int(token), 0.0) for token in row] for row in batch["input_ids"]])

    trainer = make(tmp_path, tokenizer, reward_model=scorer, segmenter=segmenter(1.0))
    trainer.read_reference = lambda batch: {
        "ref_logprobs": torch.zeros(batch["input_ids"].shape),
        "ref_entropy": torch.tensor([[0.0, 0.3, 0.9, 1.1]]),
    }
    with torch.no_grad():
        batch = trainer.evaluate_responses([[5]], [[11, 12, 40]])
        rewards = trainer.token_rewards(batch)
    # p = 1/2: mean 0.7668 * -0.693147 + 0.4705 = -0.061005, deviation 0.2569 * -0.693147 + 2.8339 = 2.655831:
    # (2 + 0.061005) / 2.655831 = 0.776030, over two tokens 0.388015.
    # p = 1: (-1 - 0.4705) / 2.8339 = -0.518896.
    assert rewards[0].tolist() == pytest.approx([0.0, 0.388015, 0.388015, -0.518896], abs=1e-5)
    assert batch["sequence_rewards"].tolist() == [0.5]
    assert trainer.describe(batch)["segment_reward"].item() == pytest.approx((0.776030 - 0.518896) / 2, abs=1e-5)


@pytest.mark.parametrize("interpolation", ["split", "repeat", "last"])
def test_segment_ppo_interpolation_without_normalizer(tmp_path: Path, tokenizer: Any, interpolation: str) -> None:
    threshold = threshold_in_the_middle(tokenizer)
    options = {"normalize": False, "interpolation": interpolation, "segmenter": segmenter(threshold)}
    trainer = make(tmp_path, tokenizer, **options)
    expected = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        scores = scores_alone(trainer.scorer.model, prompt, response)[1:]
        start, rewards = 0, []
        for end in segment_ends_by_hand(entropies_alone(trainer.reference, prompt, response), threshold):
            length = end + 1 - start
            rewards += {
                "split": [scores[end] / length] * length,
                "repeat": [scores[end]] * length,
                "last": [0.0] * (length - 1) + [scores[end]],
            }[interpolation]
            start = end + 1
        expected.append(rewards)
    with torch.no_grad():
        batch = trainer.evaluate_responses(PROMPTS, RESPONSES)
        assert_rows(in_response(trainer.token_rewards(batch), batch, RESPONSES), expected)


def test_segment_reward_is_the_score_difference_without_segmenter(tmp_path: Path, tokenizer: Any) -> None:
    threshold = threshold_in_the_middle(tokenizer)
    trainer = make(tmp_path, tokenizer, segmenter=None, entropy_threshold=threshold, missing_eos_penalty=0.25)
    expected = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        scores = scores_alone(trainer.scorer.model, prompt, response)
        scores[-1] -= 0.25 * (response[-1] != EOS)
        start, rewards = 0, []
        for end in segment_ends_by_hand(entropies_alone(trainer.reference, prompt, response), threshold):
            length = end + 1 - start
            rewards += [(scores[end + 1] - scores[start]) / length] * length
            start = end + 1
        expected.append(rewards)
        assert sum(rewards) == pytest.approx(scores[-1] - scores[0])
    with torch.no_grad():
        batch = trainer.evaluate_responses(PROMPTS, RESPONSES)
        assert_rows(in_response(trainer.token_rewards(batch), batch, RESPONSES), expected)


def test_segment_ppo_rollout_matches_the_equations(tmp_path: Path, tokenizer: Any) -> None:
    """Dense rewards minus the KL term, advantages, returns."""
    threshold = threshold_in_the_middle(tokenizer)
    trainer = make(tmp_path, tokenizer, segmenter=segmenter(threshold), kl_coef=0.3, gamma=0.9, gae_lambda=0.8)
    trainer.sample = lambda given, keys: RESPONSES
    rollout = trainer.collect(PROMPTS, [(0, 0, row) for row in range(4)])
    expected = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        ends = segment_ends_by_hand(entropies_alone(trainer.reference, prompt, response), threshold)
        scores = scores_alone(trainer.scorer.model, prompt, response)[1:]
        rewards, _ = dense_rewards_by_hand(ends, scores, PHI3, min_std=0.01, bound=10.0)
        policy, reference = (logprobs_alone(m, prompt, response) for m in (trainer.model.policy, trainer.reference))
        rewards = [r - 0.3 * (a - b) for r, a, b in zip(rewards, policy, reference, strict=True)]
        values = scores_alone(trainer.model.value, prompt, response)[:-1]
        advantages = gae_by_hand(rewards, values, 0.9, 0.8)
        expected.append([a + v for a, v in zip(advantages, values, strict=True)])
    assert_rows(in_response(rollout["returns"], rollout, RESPONSES), expected)
    assert torch.equal(rollout["policy_mask"], rollout["response_mask"])
    trainer.log(logs := {"loss": 0.0})
    assert logs["rollout/segments"] > 1
    assert math.isfinite(logs["rollout/segment_reward"])


def test_segment_ppo_response_without_finite_score_has_no_segment(tmp_path: Path, tokenizer: Any) -> None:
    def scorer(batch: dict[str, Tensor]) -> Tensor:
        scores = torch.ones(batch["input_ids"].shape)
        scores[(batch["input_ids"] == 14).any(1)] = math.nan
        return scores

    trainer = make(tmp_path, tokenizer, reward_model=scorer)
    with torch.no_grad():
        batch = trainer.evaluate_responses(PROMPTS, RESPONSES)
        rewards = trainer.token_rewards(batch)
    assert batch["segments"].tolist()[3] == 0
    assert rewards.isfinite().all()
    assert not rewards[3].any()
    assert all(values.isfinite().all() for values in trainer.describe(batch).values())


# --- limits and runs -------------------------------------------------------------------------------------------------


def run(config_type: Any, trainer_type: Any, output_dir: Path, tokenizer: Any, settings: Any, **more: Any) -> Any:
    config = config_type(str(output_dir), **{**ROLLOUT, "minibatches": 2, "rollout_epochs": 2, **settings})
    more = {"ref_model": unsure_lm(tokenizer), "reward_model": lively_reward_model(tokenizer), **more}
    return trainer_type(tiny_lm(tokenizer), config, prompts(), None, tokenizer, **more)


def test_segment_ppo_with_one_segment_is_ppo_bit_for_bit(tmp_path: Path, tokenizer: Any) -> None:
    settings = {"learning_rate": 1e-3, "num_train_epochs": 1}
    plain = run(PPOConfig, PPOTrainer, tmp_path / "ppo", tokenizer, settings)
    start = weights(plain)
    plain.train()
    bandit = {**settings, "entropy_threshold": math.inf, "interpolation": "last", "normalize": False}
    segmented = run(
        SegmentPPOConfig, SegmentPPOTrainer, tmp_path / "a", tokenizer, bandit, segmenter=segmenter(math.inf)
    )
    segmented.train()
    assert any(not torch.equal(start[name], value) for name, value in weights(plain).items())
    assert_same_bits(weights(plain), weights(segmented))


def test_token_ppo_has_one_segment_per_token(tmp_path: Path, tokenizer: Any) -> None:
    options = {"segmenter": segmenter(0.0), "normalize": False}
    trainer = make(tmp_path, tokenizer, TokenPPOConfig, **options)
    with torch.no_grad():
        batch = trainer.evaluate_responses(PROMPTS, RESPONSES)
        found = in_response(trainer.token_rewards(batch), batch, RESPONSES)
    scorer = trainer.scorer.model
    assert_rows(found, [scores_alone(scorer, p, r)[1:] for p, r in zip(PROMPTS, RESPONSES, strict=True)])


@pytest.mark.parametrize("config_type", [SegmentPPOConfig, TokenPPOConfig])
def test_segment_ppo_resumes_in_the_middle_of_a_rollout(tmp_path: Path, tokenizer: Any, config_type: Any) -> None:
    made = segmenter(4.0)

    def make_trainer(output_dir: Path, **settings: Any) -> Any:
        return run(config_type, SegmentPPOTrainer, output_dir, tokenizer, settings, segmenter=made)

    assert_resumes_to_the_same_bits(make_trainer, tmp_path)


def test_segment_ppo_step_raises_rewarded_tokens(tmp_path: Path, tokenizer: Any) -> None:
    """Tokens of segments above the normalizer's mean gain probability on those below it."""

    def scorer(batch: dict[str, Tensor]) -> Tensor:
        return torch.where(batch["input_ids"] < 140, 5.0, -5.0)

    # gamma = 0: the advantage of a token is its reward.
    options = {"per_device_train_batch_size": 12, "rollout_epochs": 1, "max_steps": 1, "gamma": 0.0}
    options |= {"optim": "sgd", "learning_rate": 0.3}
    config = TokenPPOConfig(str(tmp_path), **{**ROLLOUT, **options})
    trainer = SegmentPPOTrainer(
        tiny_lm(tokenizer), config, prompts(), None, tokenizer, reward_model=scorer, segmenter=segmenter(0.0)
    )

    trainer.train()
    assert trainer.state.global_step == 1
    rollout = trainer.rollouts.rollout
    gained: dict[bool, list[float]] = {True: [], False: []}
    for ids, real, mask, old in zip(
        *(rollout[name] for name in ("input_ids", "attention_mask", "response_mask", "logprobs")), strict=True
    ):
        prompt, response = ids[real.bool() & ~mask].tolist(), ids[mask].tolist()
        new = logprobs_alone(trainer.model.policy, prompt, response)
        for token, after, before in zip(response, new, old[mask].tolist(), strict=True):
            gained[token < 140].append(after - before)
    assert min(len(values) for values in gained.values()) > 20
    assert mean(gained[True]) > 0.01
    assert mean(gained[False]) < -0.01


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"entropy_threshold": -1.0}, r"entropy_threshold: expected >= 0, got -1\.0"),
        ({"entropy_threshold": math.nan}, r"entropy_threshold: expected a number, got nan"),
        ({"min_length": 0}, r"min_length: expected >= 1, got 0"),
        ({"reward_clip": 0.0}, r"reward_clip: expected a number > 0, got 0\.0"),
    ],
)
def test_segment_ppo_config_refuses_values_out_of_range(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentPPOConfig(use_cpu=True, **option)


def test_entropy_threshold_defaults_to_the_segmenter(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make(tmp_path, tokenizer, segmenter=segmenter(2.5, min_length=3))
    assert (trainer.entropy_threshold, trainer.min_length) == (2.5, 3)
    assert "entropy_threshold" not in caplog.text
    with caplog.at_level(logging.WARNING, logger="segkernel"):
        trainer = make(tmp_path, tokenizer, entropy_threshold=0.0, min_length=2, segmenter=segmenter(2.5, min_length=3))
    assert (trainer.entropy_threshold, trainer.min_length) == (0.0, 2)
    assert "was trained, and its normalizer fitted, at 2.5, not at 0" in caplog.text
    with pytest.raises(
        ValueError, match="entropy_threshold: expected a number without a segment reward model, got none"
    ):
        make(tmp_path, tokenizer, segmenter=None)


def test_train_segment_ppo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_files(tmp_path)
    unsure_lm(tiny_tokenizer()).save_pretrained(files["lm"])
    common = ("--use_cpu", "--disable_tqdm=True", "--num_train_epochs=1", "--logging_steps=1")
    common = (*common, "--model", files["lm"], "--eval_fraction=0.2")
    segments = str(tmp_path / "segments")
    reward = ("--preferences", files["preferences"], "--entropy_threshold=2.5")
    assert cli.main(["train", "segment-reward", *common, *reward, "--output_dir", segments, "--max_length=64"]) == 0

    ppo = ("--prompts", files["preferences"], "--max_new_tokens=6", "--max_prompt_length=32", "--rollout_epochs=2")
    ppo = (*common, *ppo, "--per_device_train_batch_size=3")
    capsys.readouterr()
    # A reward model without segments is refused before anything is written.
    assert cli.main(["train", "segment-ppo", *ppo, "--reward_model", files["rm"], "--output_dir", files["out"]]) == 2
    assert "made with `segkernel train segment-reward`" in capsys.readouterr().err
    assert not Path(files["out"]).exists()
    out = str(tmp_path / "calculations")
    assert cli.main(["train", "segment-ppo", *ppo, "--check_calculations", "--output_dir", out]) == 2
    assert "entropy_threshold: expected a number without a segment reward model, got none" in capsys.readouterr().err

    for number, (method, options) in enumerate(
        (
            ("segment-ppo", ("--reward_model", segments)),
            ("token-ppo", ("--reward_model", segments)),
            ("segment-ppo", ("--check_calculations", "--entropy_threshold=2.5")),
        )
    ):
        out = str(tmp_path / f"policy{number}")
        assert cli.main(["train", method, *ppo, *options, "--output_dir", out]) == 0
        history = json.loads((Path(out) / "trainer_state.json").read_text())["log_history"]
        logged = set().union(*history)
        assert {"rollout/segments", "rollout/segment_reward", "rollout/kl", "eval_segments"} <= logged
        counts = [log["rollout/segments"] for log in history if "rollout/segments" in log]
        lengths = [log["rollout/length"] for log in history if "rollout/length" in log]
        assert (counts == lengths) == (method == "token-ppo")
