"""PPO and its variants against the papers' equations in plain floats; runs; bad input."""

import json
import math
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from segkernel import _cli as cli
from segkernel.training import ASRPPOConfig, ASRPPOTrainer, PPOConfig, PPOTrainer, R3HFPPOConfig, R3HFPPOTrainer
from segkernel.training.models import train_tokenizer
from segkernel.training.trainer.actor_critic import actor_critic
from tests.ops.plain_floats import assert_rows, gae_by_hand, in_response, logprobs_alone, scores_alone, whitened
from tests.training.ppo_helpers import EOS, RESPONSES, ROLLOUT, collect, each, make
from tests.training.trainer_helpers import (
    assert_resumes_to_the_same_bits,
    assert_same_bits,
    prompts,
    tiny_config,
    tiny_lm,
    tiny_reward_model,
    tiny_tokenizer,
    weights,
    write_files,
)

KINDS = [(PPOConfig, PPOTrainer), (R3HFPPOConfig, R3HFPPOTrainer), (ASRPPOConfig, ASRPPOTrainer)]


# --- rewards, advantages, losses -------------------------------------------------------------------------------------


def token_rewards_by_hand(trainer: Any, scores: list[list[float]]) -> list[list[float]]:
    """Token rewards per response before the KL term; the third response was cut off, which costs it 0.25."""
    scores = [list(row) for row in scores]
    scores[2][-1] -= 0.25
    if isinstance(trainer, R3HFPPOTrainer):
        # mix * (s_t - s_{t-1}) + (1 - mix) * [t = T] * R
        return [
            [0.7 * (s[t] - s[t - 1]) + (0.3 * s[-1] if t == len(s) - 1 else 0.0) for t in range(1, len(s))]
            for s in scores
        ]
    return [[0.0] * (len(s) - 2) + [s[-1]] for s in scores]


@pytest.mark.parametrize(("config_type", "trainer_type"), KINDS)
@pytest.mark.parametrize("side", ["right", "left"])
def test_rollout_matches_the_equations(tmp_path: Path, config_type: Any, trainer_type: Any, side: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = side
    options = {"kl_coef": 0.3, "gamma": 0.9, "gae_lambda": 0.8, "missing_eos_penalty": 0.25, "temperature": 0.7}
    options |= {"mix": 0.7} if trainer_type is R3HFPPOTrainer else {}
    trainer = make(config_type, trainer_type, tmp_path, tokenizer, **options)
    rollout = collect(trainer)

    logprobs = each(logprobs_alone, trainer.model.policy, 0.7)
    ref_logprobs = each(logprobs_alone, trainer.reference, 0.7)
    values = [scores[:-1] for scores in each(scores_alone, trainer.model.value)]
    rewards = token_rewards_by_hand(trainer, each(scores_alone, trainer.scorer.model))
    rewards = [
        [r - 0.3 * (a - b) for r, a, b in zip(*rows, strict=True)]
        for rows in zip(rewards, logprobs, ref_logprobs, strict=True)
    ]
    advantages = [gae_by_hand(r, v, 0.9, 0.8) for r, v in zip(rewards, values, strict=True)]
    returns = [[a + v for a, v in zip(*rows, strict=True)] for rows in zip(advantages, values, strict=True)]

    assert_rows(in_response(rollout["logprobs"], rollout, RESPONSES), logprobs)
    assert_rows(in_response(rollout["advantages"], rollout, RESPONSES), whitened(advantages))
    assert_rows(in_response(rollout["returns"], rollout, RESPONSES), returns)
    assert in_response(rollout["response_mask"].float(), rollout, RESPONSES) == [[1.0] * len(r) for r in RESPONSES]
    if trainer_type is not ASRPPOTrainer:
        assert torch.equal(rollout["policy_mask"], rollout["response_mask"])


@pytest.mark.parametrize("whiten", [True, False])
def test_rollout_baseline_subtracts_the_mean_return(tmp_path: Path, whiten: bool) -> None:
    options: dict[str, Any] = {"advantage_baseline": "rollout", "whiten_advantages": whiten, "gae_lambda": 0.8}
    rollout = collect(make(PPOConfig, PPOTrainer, tmp_path, tiny_tokenizer(), **options))
    returns = in_response(rollout["returns"], rollout, RESPONSES)
    center = mean(value for row in returns for value in row)
    expected = whitened(returns) if whiten else [[value - center for value in row] for row in returns]
    assert_rows(in_response(rollout["advantages"], rollout, RESPONSES), expected)


def test_ppo_with_a_padded_policy_and_an_end_of_turn(tmp_path: Path, tokenizer: Any) -> None:
    # 40 columns of the policy's logits have no token, and the reward model has no embeddings for them.
    turn_end = 260
    config = tiny_config(tokenizer, vocab_size=len(tokenizer) + 40, eos_token_id=[EOS, turn_end])
    torch.manual_seed(1)
    model = LlamaForCausalLM(config)
    head = torch.nn.Linear(32, len(tokenizer) + 40)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.zero_()[turn_end] = 4.0
        head.bias[len(tokenizer) :] = 4.0
    model.lm_head = head
    settings = {**ROLLOUT, "max_new_tokens": 6, "per_device_train_batch_size": 8, "missing_eos_penalty": 0.25}
    prompts = [[5 + index, 6] for index in range(16)]
    trainer = PPOTrainer(
        model,
        PPOConfig(str(tmp_path), **settings),
        [{"prompt_ids": ids} for ids in prompts],
        None,
        tokenizer,
        reward_model=tiny_reward_model(tokenizer, seed=3),
    )
    responses = trainer.sample(prompts, [(0, index) for index in range(16)])
    assert max(token for response in responses for token in response) < len(tokenizer)
    assert all(turn_end not in response[:-1] and EOS not in response[:-1] for response in responses)
    ended = [response[-1] in (EOS, turn_end) for response in responses]
    assert 0 < sum(ended) < 16
    batch = trainer.evaluate_responses(prompts, responses)
    assert batch["ended"].tolist() == ended
    scores = [scores_alone(trainer.scorer.model, p, r)[-1] for p, r in zip(prompts, responses, strict=True)]
    expected = [score - (0.0 if end else 0.25) for score, end in zip(scores, ended, strict=True)]
    assert batch["sequence_rewards"].tolist() == pytest.approx(expected, abs=1e-5)
    # The log-probabilities are over all columns, in the rollout as in the update.
    logprobs = [logprobs_alone(trainer.model.policy, p, r) for p, r in zip(prompts, responses, strict=True)]
    assert_rows(in_response(batch["logprobs"], batch, responses), logprobs)


@pytest.mark.parametrize("kept", [[[1, 1, 1], [1], [1, 1, 1, 1]], [[0, 1, 1], [0], [1, 0, 0, 1]]])
def test_minibatch_loss_matches_the_equations(tmp_path: Path, tokenizer: Any, kept: list[list[int]]) -> None:
    trainer = make(PPOConfig, PPOTrainer, tmp_path, tokenizer, clip_range=0.1, value_clip_range=0.05, value_coef=0.4)
    rollout = collect(trainer)
    for row, bits in enumerate(kept):
        rollout["policy_mask"][row, rollout["response_mask"][row].clone()] = torch.tensor(bits).bool()
    rollout["values"] = rollout["values"] * rollout["response_mask"]
    old = [in_response(rollout[name], rollout, RESPONSES) for name in ("logprobs", "values")]
    advantages, returns = (in_response(rollout[name], rollout, RESPONSES) for name in ("advantages", "returns"))
    # Poison the padding, which must not be read.
    for name in ("advantages", "returns", "values", "logprobs"):
        rollout[name][~rollout["response_mask"]] = math.nan
    torch.manual_seed(0)
    for parameter in trainer.model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)

    new = each(logprobs_alone, trainer.model.policy), [s[:-1] for s in each(scores_alone, trainer.model.value)]
    policy, value, clipped = [], [], 0
    for row, bits in enumerate(kept):
        for t, bit in enumerate(bits):
            v, r = new[1][row][t], returns[row][t]
            held = min(max(v, old[1][row][t] - 0.05), old[1][row][t] + 0.05)
            value.append(0.5 * max((v - r) ** 2, (held - r) ** 2))
            if bit:
                ratio, advantage = math.exp(new[0][row][t] - old[0][row][t]), advantages[row][t]
                policy.append(-min(ratio * advantage, min(max(ratio, 0.9), 1.1) * advantage))
                clipped += min(max(ratio, 0.9), 1.1) * advantage < ratio * advantage
    assert clipped > 0
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, rollout)
    assert loss.item() == pytest.approx(mean(policy) + 0.4 * mean(value), rel=1e-4)
    loss.backward()
    for model in (trainer.model.policy, trainer.model.value):
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients)


# --- runs ------------------------------------------------------------------------------------------------------------


def low_tokens(batch: dict[str, Tensor]) -> Tensor:
    """Prefix scores: tokens of the lower half of the vocabulary minus tokens of the upper half."""
    return torch.where(batch["response_mask"], torch.where(batch["input_ids"] < 140, 1.0, -1.0), 0.0).cumsum(1)


@pytest.mark.slow
@pytest.mark.parametrize(("config_type", "trainer_type"), KINDS)
def test_ppo_raises_the_reward(tmp_path: Path, tokenizer: Any, config_type: Any, trainer_type: Any) -> None:
    options = {
        "num_train_epochs": 20,
        "learning_rate": 1e-2,
        "kl_coef": 0.01,
        "per_device_train_batch_size": 8,
        "minibatches": 2,
    }
    config = config_type(str(tmp_path), **{**ROLLOUT, "max_new_tokens": 8, "rollout_epochs": 2, **options})
    lm, held_out = tiny_lm(tokenizer), prompts(4)
    trainer = trainer_type(lm, config, prompts(16), held_out, tokenizer, reward_model=low_tokens)
    trainer.train()
    rewards = [log["rollout/reward"] for log in trainer.state.log_history if "rollout/reward" in log]
    # The maximum is 8; an untrained policy scores about 0.
    assert mean(rewards[:3]) < 2
    assert mean(rewards[-3:]) > 4.5
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == -metrics["eval_reward"]
    assert metrics["eval_kl"] > 1
    logged = set().union(*trainer.state.log_history)
    assert {"rollout/reward", "rollout/kl", "rollout/entropy", "kept", "loss/value", "clipped"} <= logged


@pytest.mark.parametrize(("config_type", "trainer_type"), KINDS)
def test_ppo_resumes_in_the_middle_of_a_rollout(
    tmp_path: Path, tokenizer: Any, config_type: Any, trainer_type: Any
) -> None:
    def make_trainer(output_dir: Path, **settings: Any) -> Any:
        config = config_type(str(output_dir), **{**ROLLOUT, "minibatches": 2, "rollout_epochs": 2, **settings})
        reward_model = tiny_reward_model(tokenizer, seed=3)
        return trainer_type(tiny_lm(tokenizer), config, prompts(), None, tokenizer, reward_model=reward_model)

    assert_resumes_to_the_same_bits(make_trainer, tmp_path)
    # A checkpoint is a language model, with the value model in a folder in it.
    assert (tmp_path / "whole" / "checkpoint-6" / "config.json").is_file()
    assert (tmp_path / "whole" / "checkpoint-6" / "value" / "model.safetensors").is_file()


@pytest.mark.parametrize("architecture", [(GPT2Config, GPT2LMHeadModel), (Qwen2Config, Qwen2ForCausalLM)])
def test_value_model_of_other_architectures_starts_at_zero(tmp_path: Path, tokenizer: Any, architecture: Any) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    config_type, model_type = architecture
    policy = model_type(config_type(vocab_size=len(tokenizer), num_key_value_heads=2, **sizes))
    config = PPOConfig(str(tmp_path), **{**ROLLOUT, "max_steps": 2})
    trainer = PPOTrainer(policy, config, prompts(), None, tokenizer, reward_model=low_tokens)
    value = trainer.model.value
    assert torch.equal(value.get_input_embeddings().weight, policy.get_input_embeddings().weight)
    assert not value(torch.tensor([[5, 6, 7]])).logits.any()
    before = weights(trainer)
    trainer.train()
    moved = {name.split(".")[0] for name, tensor in weights(trainer).items() if not torch.equal(tensor, before[name])}
    assert moved == {"policy", "value"}


@pytest.mark.parametrize("frozen", ["one layer", "everything"])
def test_value_model_keeps_its_frozen_layers_unless_all_are(tokenizer: Any, frozen: str) -> None:
    value = tiny_reward_model(tokenizer)
    layer = value.model.layers[0]
    (layer if frozen == "one layer" else value).requires_grad_(False)
    trained = {
        name for name, p in actor_critic(tiny_lm(tokenizer), value, None).value.named_parameters() if p.requires_grad
    }
    left_out = {f"model.layers.0.{name}" for name, _ in layer.named_parameters()} if frozen == "one layer" else set()
    assert trained == {name for name, _ in value.named_parameters()} - left_out


def test_ppo_loads_the_best_model_at_the_end(tmp_path: Path, tokenizer: Any) -> None:
    options = {"load_best_model_at_end": True, "metric_for_best_model": "kl", "greater_is_better": False}
    options |= {"save_strategy": "epoch", "eval_strategy": "epoch", "num_train_epochs": 3, "learning_rate": 1e-3}
    config = PPOConfig(str(tmp_path), **{**ROLLOUT, **options, "rollout_epochs": 2})
    trainer = PPOTrainer(tiny_lm(tokenizer), config, prompts(8), prompts(4), tokenizer, reward_model=low_tokens)
    trainer.train()
    evaluated = [log["eval_kl"] for log in trainer.state.log_history if "eval_kl" in log]
    best = evaluated.index(min(evaluated))
    assert best < 2
    checkpoint = tmp_path / f"checkpoint-{4 * (best + 1)}"
    for model, folder in ((trainer.model.policy, checkpoint), (trainer.model.value, checkpoint / "value")):
        saved = load_file(folder / "model.safetensors")
        assert_same_bits({name: model.state_dict()[name] for name in saved}, saved)


def test_rollouts_differ_and_minibatches_partition_each(tmp_path: Path, tokenizer: Any) -> None:
    config = PPOConfig(str(tmp_path), **{**ROLLOUT, "minibatches": 2, "rollout_epochs": 2, "learning_rate": 0.0})
    trainer = PPOTrainer(tiny_lm(tokenizer), config, prompts(16), None, tokenizer, reward_model=low_tokens)
    seen: list[list[list[int]]] = []
    compute_loss = trainer.compute_loss

    def watch(model: Any, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        seen.append(inputs["input_ids"].tolist())
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = watch
    trainer.train()
    assert len(seen) == 2 * 2 * 4
    for first in range(0, len(seen), 4):
        a, b, *again = seen[first : first + 4]
        assert [a, b] == again
        assert all(row not in b for row in a)
    # In the second epoch the same policy answers the same 16 prompts with other random numbers.
    assert sorted(seen[0] + seen[1]) != sorted(seen[8] + seen[9])


# --- bad input -------------------------------------------------------------------------------------------------------


def test_ppo_skips_responses_without_finite_scores(tmp_path: Path, tokenizer: Any) -> None:
    def scorer(batch: dict[str, Tensor]) -> Tensor:
        scores = torch.linspace(0, 1, batch["input_ids"].shape[1]).repeat(len(batch["input_ids"]), 1)
        scores[(batch["input_ids"] == 14).any(1)] = math.nan
        # NaN at padding, which must not be read.
        return scores.masked_fill(batch["attention_mask"] == 0, math.nan)

    for config_type, trainer_type in KINDS:
        output_dir = tmp_path / trainer_type.__name__
        trainer = make(config_type, trainer_type, output_dir, tokenizer, reward_model=scorer)
        rollout = collect(trainer)
        assert rollout["response_mask"].sum(1).tolist() == [3, 1, 0]
        assert not rollout["policy_mask"][2].any()
        assert rollout["advantages"].isfinite().all()
        trainer.log(logs := {"loss": 0.0})
        assert logs["rollout/nonfinite_rewards"] == pytest.approx(1 / 3)
        assert all(math.isfinite(value) for value in logs.values())
        assert trainer.compute_loss(trainer.model, rollout).isfinite()


def test_ppo_stops_when_all_scores_are_nan(tmp_path: Path, tokenizer: Any) -> None:
    reward_model = tiny_reward_model(tokenizer)
    reward_model.score.weight.data.fill_(math.nan)
    trainer = make(PPOConfig, PPOTrainer, tmp_path, tokenizer, reward_model=reward_model, minibatches=1)
    with pytest.raises(FloatingPointError, match="reward_model: expected finite scores, got NaN or infinity"):
        trainer.train()


@pytest.mark.parametrize(("token", "length", "ended"), [(EOS, 1.0, 1.0), (9, 4.0, 0.0)])
def test_ppo_with_responses_all_empty_or_never_ending(
    tmp_path: Path, tokenizer: Any, token: int, length: float, ended: float
) -> None:
    """Policy that always samples the same token: the EOS, or another one."""
    config = PPOConfig(str(tmp_path), **{**ROLLOUT, "num_train_epochs": 1, "rollout_epochs": 1})
    policy = tiny_lm(tokenizer)
    bias = torch.full((len(tokenizer),), -100.0)
    bias[token] = 100.0
    policy.lm_head.bias = torch.nn.Parameter(bias, requires_grad=False)
    reward_model = tiny_reward_model(tokenizer)
    trainer = PPOTrainer(policy, config, prompts(), None, tokenizer, reward_model=reward_model)
    trainer.train()
    logs = trainer.state.log_history[0]
    assert (logs["rollout/length"], logs["rollout/ended"]) == (length, ended)
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_ppo_skips_steps_whose_mask_is_empty(tmp_path: Path, tokenizer: Any) -> None:
    # Within a million standard deviations every token is neutral.
    options = {"delta": 1e6, "threshold_unit": "std", "num_train_epochs": 1, "weight_decay": 0.1}
    trainer = make(ASRPPOConfig, ASRPPOTrainer, tmp_path, tokenizer, **options)
    before = weights(trainer)
    trainer.train()
    assert_same_bits(before, weights(trainer))
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert [log["skipped_steps"] for log in logs] == [1] * len(logs)
    assert len(logs) == 4
    assert [log["kept"] for log in logs] == [0.0] * 4


def test_ppo_trims_long_prompts_and_refuses_long_contexts(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make(PPOConfig, PPOTrainer, tmp_path, tokenizer, max_prompt_length=2)
    assert [row["prompt_ids"] for row in trainer.train_dataset] == [[6, 7], [8], [9, 10]]
    with pytest.raises(ValueError, match=r"max_prompt_length \+ max_new_tokens: expected at most 128 .* got 125 \+ 4"):
        make(PPOConfig, PPOTrainer, tmp_path, tokenizer, max_prompt_length=125)


@pytest.mark.parametrize(
    ("config_type", "options", "message"),
    [
        (PPOConfig, {"minibatches": 0}, "minibatches: expected >= 1, got 0"),
        (PPOConfig, {"gradient_accumulation_steps": 3}, "gradient_accumulation_steps: expected a divisor of .* = 4"),
        (R3HFPPOConfig, {"mix": 1.5}, r"mix: expected 0 <= mix <= 1, got 1.5"),
        (PPOConfig, {"gradient_accumulation_steps": 0}, "gradient_accumulation_steps: expected >= 1, got 0"),
        (PPOConfig, {"learning_rate": -1.0}, r"learning_rate: expected a finite number >= 0, got -1\.0"),
        (PPOConfig, {"gamma": 1.5}, r"gamma: expected 0 <= gamma <= 1, got 1\.5"),
        (PPOConfig, {"clip_range": 0.0}, r"clip_range: expected a finite number > 0, got 0\.0"),
        (
            PPOConfig,
            {"advantage_baseline": "mean"},
            "advantage_baseline: expected one of 'values', 'rollout'",
        ),
        (ASRPPOConfig, {"token_rewards": "column"}, "token_rewards: expected one of 'difference', 'prefix'"),
        (ASRPPOConfig, {"sequence_baseline": "median"}, "sequence_baseline: expected `mean`, `prompt` or a number"),
    ],
)
def test_ppo_config_refuses_values_out_of_range(
    tmp_path: Path, config_type: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config_type(str(tmp_path), **{**ROLLOUT, **options})


def test_ppo_refuses_too_few_prompts_for_one_rollout(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="train_dataset: expected at least 4 prompts, one rollout, got 3"):
        make(PPOConfig, PPOTrainer, tmp_path, tokenizer, minibatches=2)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ppo", "asr-ppo", "r3hf-ppo"])
def test_train_ppo_methods(tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_files(tmp_path)
    options = "--use_cpu --disable_tqdm=True --max_new_tokens=6 --max_prompt_length=64 --per_device_train_batch_size=4"
    start = ["--prompts", files["preferences"], "--model", files["lm"], *options.split()]
    common = ["train", method, *start, "--output_dir", files["out"], "--num_train_epochs=2"]

    assert cli.main(common) == 2
    assert "reward_model: expected a directory (or --reward_policy DIR, or" in capsys.readouterr().err
    assert cli.main([*common, "--reward_model", files["rm"], "--check_calculations"]) == 2
    assert f"expected one source of rewards, got {files['rm']} and calculations" in capsys.readouterr().err
    assert cli.main([*common, "--reward_model", files["rm"]]) == 0
    history = json.loads((tmp_path / "out" / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    assert any("eval_reward" in log for log in history)
    assert (tmp_path / "out" / "report.html").is_file()
    # A run is not resumed with another source of rewards.
    assert cli.main([*common, "--check_calculations", "--resume_from_checkpoint", "last"]) == 2
    assert f"had rewards='{files['rm']}', this one has 'calculations'" in capsys.readouterr().err
    # A trained policy can be the start of another run.
    again = ["train", method, "--prompts", files["preferences"], "--model", files["out"], *options.split()]
    out = str(tmp_path / "again")
    assert cli.main([*again, "--check_calculations", "--output_dir", out, "--max_steps=1", "--eval_strategy=no"]) == 0


def test_train_ppo_refuses_a_reward_model_of_another_vocabulary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_files(tmp_path)
    other = train_tokenizer(["something else altogether"], vocab_size=270)
    tiny_reward_model(other).save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    start = ["--prompts", files["preferences"], "--model", files["lm"], "--reward_model", str(tmp_path / "other")]
    assert cli.main(["train", "ppo", *start, "--use_cpu", "--output_dir", files["out"]]) == 2
    assert "expected the policy's tokenizer, got another one in" in capsys.readouterr().err
