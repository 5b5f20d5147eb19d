"""Rejection sampling, whole and on segments, against plain floats: what is accepted, what is kept, the likelihood."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from segkernel import _cli as cli
from segkernel.training import ASRRFTConfig, ASRRFTTrainer, RFTConfig, RFTTrainer
from segkernel.training.models.response_tokens import ResponseTokens
from segkernel.training.sampling import sample_responses
from tests.ops.plain_floats import logprobs_alone, schmitt, smoothed
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
PROMPTS = [{"prompt_ids": [5, 6]}, {"prompt_ids": [7]}, {"prompt_ids": [30, 8, 9, 10]}]
SETTINGS: dict[str, Any] = {
    **QUICK,
    "samples": 4,
    "max_new_tokens": 6,
    "max_prompt_length": 32,
    "seed": 3,
}
# The trigger at +-1 around 0, in the rewards' own unit.
LITERAL: dict[str, Any] = {"baseline": "0", "delta": 1.0, "threshold_unit": "reward"}


def worth(token: int) -> float:
    """Reward of a token: differs from token to token and has both signs."""
    return (token * 37 % 11 - 5) / 2


def worth_of_prefixes(batch: dict[str, Tensor]) -> Tensor:
    """Scores of every prefix: the sum of the rewards of its response tokens."""
    gains = torch.zeros(batch["input_ids"].shape)
    for row, (ids, mask) in enumerate(zip(batch["input_ids"].tolist(), batch["response_mask"].tolist(), strict=True)):
        for position, (token, valid) in enumerate(zip(ids, mask, strict=True)):
            gains[row, position] = worth(token) if valid else 0.0
    return gains.cumsum(dim=1)


def scored(row: list[float], ids: list[int]) -> list[float]:
    """Rewards that count: not that of the EOS."""
    return row[:-1] if ids[-1] == EOS else row


def with_end(row: list[float], ids: list[int], alone: float = 0.0) -> list[float]:
    """Rewards as segments see them: the EOS has that of the token before it, or `alone`."""
    return [*row[:-1], ([alone, *row[:-1]])[-1]] if ids[-1] == EOS else row


def likelihoods(model: nn.Module, row: dict[str, Any]) -> list[float]:
    return logprobs_alone(model, row["prompt_ids"], row["response_ids"])


def make_trainer(
    method: str, directory: Path, tokenizer: Any, rows: Any = None, reward: Any = worth_of_prefixes, **options: Any
) -> Any:
    types: dict[str, Any] = {"rft": (RFTConfig, RFTTrainer), "asr-rft": (ASRRFTConfig, ASRRFTTrainer)}
    config_type, trainer_type = types[method]
    rows = PROMPTS if rows is None else rows
    config = config_type(str(directory), **{**SETTINGS, **options})
    return trainer_type(policy(tokenizer), config, rows, rows, tokenizer, reward_model=reward)


def policy(tokenizer: Any) -> LlamaForCausalLM:
    """One that ends about every fifth token."""
    model = tiny_lm(tokenizer, seed=1)
    head = nn.Linear(32, len(tokenizer))
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.zero_()[tokenizer.eos_token_id] = 4.2
    model.lm_head = head
    return model


# --- what is accepted ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 3])
def test_rft_accepts_the_best_samples_of_every_prompt(tmp_path: Path, tokenizer: Any, keep: int) -> None:
    trainer = make_trainer("rft", tmp_path, tokenizer, keep=keep)
    expected, lengths = [], set()
    for index, prompt in enumerate(PROMPTS):
        responses = [
            sample_responses(
                policy(tokenizer),
                [prompt["prompt_ids"]],
                [(3, index, number)],
                trainer.args,
                tokens=ResponseTokens((tokenizer.eos_token_id,), tokenizer.pad_token_id),
                batch_size=1,
            )[0]
            for number in range(4)
        ]
        lengths |= {len(response) for response in responses}
        rewards = [sum(worth(token) for token in response) for response in responses]
        mean = sum(rewards) / 4
        for _ in range(keep):
            best = rewards.index(max(rewards))  # the first of equals
            expected.append((index, responses[best], rewards[best], mean))
            rewards[best] = -math.inf
    names = ("prompt_index", "response_ids", "reward", "samples_reward")
    assert [tuple(row[name] for name in names) for row in trainer.train_dataset] == expected
    assert lengths > {1, 6}  # some ended, some were cut off


def test_rft_accepts_the_first_of_equal_samples(tmp_path: Path, tokenizer: Any) -> None:
    equal = make_trainer("rft", tmp_path, tokenizer, reward=lambda batch: torch.zeros(batch["input_ids"].shape))
    all_of_them = make_trainer(
        "rft", tmp_path, tokenizer, reward=lambda batch: torch.zeros(batch["input_ids"].shape), keep=4
    )
    first = all_of_them.train_dataset.select(range(0, 12, 4))
    assert [row["response_ids"] for row in equal.train_dataset] == [row["response_ids"] for row in first]


def test_rft_reads_the_reward_model_at_the_last_token(tmp_path: Path, tokenizer: Any) -> None:
    scorer = tiny_reward_model(tokenizer)
    trainer = make_trainer("rft", tmp_path, tokenizer, reward=scorer, keep=4)
    for row in trainer.train_dataset:
        with torch.no_grad():
            score = scorer(torch.tensor([[*row["prompt_ids"], *row["response_ids"]]])).logits[0, -1, 0].item()
        assert row["reward"] == pytest.approx(score, abs=1e-5)
    rewards = trainer.train_dataset[:4]["reward"]
    assert rewards == sorted(rewards, reverse=True)


@pytest.mark.parametrize("method", ["rft", "asr-rft"])
def test_rft_rejects_samples_without_a_finite_reward(
    tmp_path: Path, tokenizer: Any, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    clean = make_trainer(method, tmp_path, tokenizer, keep=4, **({} if method == "rft" else LITERAL))
    best = max((row for row in clean.train_dataset if row["prompt_index"] == 0), key=lambda row: row["reward"])

    def broken(batch: dict[str, Tensor]) -> Tensor:
        """Scores with a NaN at the first token of that response."""
        scores = worth_of_prefixes(batch)
        for row, (ids, mask) in enumerate(zip(batch["input_ids"], batch["response_mask"], strict=True)):
            if ids[mask].tolist() == best["response_ids"]:
                scores[row, int(mask.int().argmax())] = math.nan
        return scores

    caplog.clear()
    trainer = make_trainer(method, tmp_path, tokenizer, reward=broken, keep=4, **({} if method == "rft" else LITERAL))
    kept = [row["response_ids"] for row in trainer.train_dataset]
    assert kept == [row["response_ids"] for row in clean.train_dataset if row != best]
    assert "1 have no finite reward and are never accepted" in caplog.text
    with pytest.raises(
        ValueError, match="reward_model: expected finite scores, got NaN or infinity for all 12 sampled"
    ):
        make_trainer(method, tmp_path, tokenizer, reward=lambda batch: worth_of_prefixes(batch) * math.nan)


def test_rft_counts_cut_off_and_empty_samples(tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_lm(tokenizer, seed=1)

    def build(bias: float, directory: Path) -> RFTTrainer:
        # The EOS always, or never.
        model.lm_head = nn.Linear(32, len(tokenizer))
        with torch.no_grad():
            model.lm_head.weight.zero_()
            model.lm_head.bias.zero_()[tokenizer.eos_token_id] = bias
        config = RFTConfig(str(directory), **{**SETTINGS, "max_prompt_length": 3})
        return RFTTrainer(model, config, PROMPTS, PROMPTS, tokenizer, reward_model=worth_of_prefixes)

    caplog.set_level(logging.WARNING)
    empty = build(1e4, tmp_path / "empty")
    assert "12 for 3 prompts; 0 were cut off at max_new_tokens=6, 12 are empty, 0 have no finite" in caplog.text
    assert "train_dataset: trimmed prompts, from the left, to fit 3 tokens: 1 of 3 ([2])" in caplog.text
    assert empty.train_dataset[2]["prompt_ids"] == [8, 9, 10]
    assert all(row["response_ids"] == [tokenizer.eos_token_id] for row in empty.train_dataset)
    assert empty.evaluate()["eval_ended"] == 1
    empty.train()
    losses = [log["loss"] for log in empty.state.log_history if "loss" in log]
    assert losses
    assert all(map(math.isfinite, losses))
    caplog.clear()
    endless = build(-1e4, tmp_path / "endless")
    assert "12 were cut off at max_new_tokens=6, 0 are empty" in caplog.text
    metrics = endless.evaluate()
    assert (metrics["eval_ended"], metrics["eval_length"]) == (0, 6)


# --- what the loss sees ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("tokens", [1, 6])
def test_rft_loss_matches_the_likelihood_of_the_accepted_responses(tmp_path: Path, padding: str, tokens: int) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = padding
    trainer = make_trainer("rft", tmp_path, tokenizer, max_new_tokens=tokens, keep=3)
    assert tokens == 1 or len({len(row["response_ids"]) for row in trainer.train_dataset}) > 1
    expected = [logprob for row in trainer.train_dataset for logprob in likelihoods(trainer.model, row)]
    loss = trainer.compute_loss(trainer.model, trainer.collate(trainer.train_dataset))
    assert loss.item() == pytest.approx(-sum(expected) / len(expected), rel=1e-5)


@pytest.mark.parametrize("padding", ["right", "left"])
@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize("kind", ["difference", "prefix"])
def test_asr_rft_loss_matches_the_likelihood_of_the_positive_segments(
    tmp_path: Path, padding: str, tokens: int, kind: str
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = padding
    options = {**LITERAL, "token_rewards": kind, "max_new_tokens": tokens, "keep": 3}
    trainer = make_trainer("asr-rft", tmp_path, tokenizer, **options)
    expected, segments = [], 0
    for row in trainer.train_dataset:
        rewards = [worth(token) for token in row["response_ids"]]
        if kind == "prefix":
            rewards = [sum(rewards[: end + 1]) for end in range(len(rewards))]
        assert row["token_rewards"] == pytest.approx(rewards)
        kept = [state == 1 for state in schmitt(with_end(rewards, row["response_ids"]), -1.0, 1.0)]
        assert row["mask"] == kept
        expected += [logprob for logprob, k in zip(likelihoods(trainer.model, row), kept, strict=True) if k]
        segments += row["segments"]
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, trainer.collate(trainer.train_dataset))
    assert len(expected) > 0
    assert loss.item() == pytest.approx(-sum(expected) / len(expected), rel=1e-5)
    logs = {"loss": 0.0}
    trainer.log(logs)
    count = sum(len(row["response_ids"]) for row in trainer.train_dataset)
    assert logs["kept"] == pytest.approx(len(expected) / count)
    assert logs["segments"] == pytest.approx(segments / len(trainer.train_dataset))
    assert logs["reward/accepted"] == pytest.approx(sum(r["reward"] for r in trainer.train_dataset) / 9)
    assert logs["reward/accepted"] > logs["reward/samples"]
    assert 0 < logs["entropy"] < math.log(len(tokenizer))


def test_asr_rft_logs_mask_agreement_with_the_true_credit(tmp_path: Path, tokenizer: Any) -> None:
    config = ASRRFTConfig(str(tmp_path), **{**SETTINGS, **LITERAL, "token_rewards": "difference"})
    trainer = ASRRFTTrainer(
        policy(tokenizer),
        config,
        PROMPTS,
        None,
        tokenizer,
        reward_model=worth_of_prefixes,
        token_credit=lambda batch: torch.where(batch["input_ids"] % 2 == 0, 1, -1),
    )
    shares = []
    for row in trainer.train_dataset:
        treated = [kept == (token % 2 == 0) for kept, token in zip(row["mask"], row["response_ids"], strict=True)]
        shares.append(sum(treated) / len(treated))
        assert row["mask_agreement"] == pytest.approx(shares[-1])
    assert len(set(shares)) > 1
    trainer.model.train()
    trainer.compute_loss(trainer.model, trainer.collate(trainer.train_dataset))
    trainer.log(logs := {"loss": 0.0})
    assert logs["mask_agreement"] == pytest.approx(sum(shares) / len(shares))


def test_asr_rft_response_without_a_pivot_is_one_segment(tmp_path: Path, tokenizer: Any) -> None:
    options = {"pivot_threshold": 100.0, "baseline": "0", "threshold_unit": "reward", "keep": 4}
    trainer = make_trainer("asr-rft", tmp_path, tokenizer, **options)
    signs = []
    for row in trainer.train_dataset:
        rewards = with_end([worth(token) for token in row["response_ids"]], row["response_ids"])
        mean = sum(rewards) / len(rewards)
        assert row["mask"] == [mean > 0] * len(row["response_ids"])
        assert row["segments"] == 1
        signs.append(mean > 0)
    assert True in signs
    assert False in signs


def test_asr_rft_fits_thresholds_to_all_samples(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer("asr-rft", tmp_path, tokenizer, delta=0.25, threshold_unit="std")
    everything = make_trainer("rft", tmp_path, tokenizer, keep=4).train_dataset
    rewards = [worth(token) for row in everything for token in row["response_ids"] if token != EOS]
    mean = sum(rewards) / len(rewards)
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    assert trainer.thresholds.baseline == pytest.approx(mean)
    assert trainer.thresholds.delta == pytest.approx(0.25 * deviation)


def test_asr_rft_baseline_per_prompt_is_over_all_its_smoothed_samples(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer("asr-rft", tmp_path, tokenizer, baseline="prompt", smoothing=3, threshold_unit="std")
    everything = make_trainer("rft", tmp_path, tokenizer, keep=4).train_dataset
    rewards: dict[int, list[float]] = {}
    for row in everything:
        found = scored([worth(token) for token in row["response_ids"]], row["response_ids"])
        rewards.setdefault(row["prompt_index"], []).extend(smoothed(found, 3))
    assert trainer.thresholds.baseline == "prompt"
    for row in trainer.train_dataset:
        own = rewards[row["prompt_index"]]
        assert row["baseline"] == pytest.approx(sum(own) / len(own), abs=1e-6)
        ids = row["response_ids"]
        found = smoothed(scored([worth(token) for token in ids], ids), 3)
        assert scored(row["token_rewards"], ids) == pytest.approx(found, abs=1e-6)
        seen = with_end(row["token_rewards"], ids, row["baseline"])
        states = schmitt(seen, *(row["baseline"] + s * trainer.thresholds.delta for s in (-1, 1)))
        assert row["mask"] == [state == 1 for state in states]


def test_asr_rft_all_neutral_is_refused_or_with_keep_neutral_equals_rft(tmp_path: Path, tokenizer: Any) -> None:
    neutral = {"baseline": "0", "delta": 100.0, "threshold_unit": "reward"}
    with pytest.raises(ValueError, match="delta: no segment of any accepted response is positive"):
        make_trainer("asr-rft", tmp_path, tokenizer, **neutral)
    segmented = make_trainer("asr-rft", tmp_path / "a", tokenizer, **neutral, keep_neutral=True)
    plain = make_trainer("rft", tmp_path / "b", tokenizer)
    start = weights(plain)
    segmented.train()
    plain.train()
    assert not torch.equal(start["lm_head.weight"], weights(plain)["lm_head.weight"])
    assert_same_bits(weights(plain), weights(segmented))


def test_asr_rft_step_with_empty_masks_leaves_the_weights(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer("asr-rft", tmp_path, tokenizer, **LITERAL, weight_decay=0.1, num_train_epochs=1)
    trainer.train_dataset = [{**row, "mask": [False] * len(row["mask"])} for row in trainer.train_dataset]
    start = weights(trainer)
    loss = trainer.compute_loss(trainer.model, trainer.collate(trainer.train_dataset))
    assert loss.item() == 0.0
    trainer.train()
    assert_same_bits(start, weights(trainer))
    logged = next(log for log in trainer.state.log_history if "loss" in log)
    assert (logged["loss"], logged["kept"], logged["skipped_steps"]) == (0.0, 0.0, 1)


def test_asr_rft_ignores_logits_outside_the_mask(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer("asr-rft", tmp_path, tokenizer, **LITERAL)
    batch = trainer.collate(trainer.train_dataset)
    used = batch["loss_mask"].roll(-1, dims=1)
    assert used.any()
    assert (batch["response_mask"] & ~batch["loss_mask"]).any()
    captured: list[Tensor] = []

    class Poisoned(nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            output = trainer.model(input_ids=input_ids, attention_mask=attention_mask)
            output.logits = torch.where(used[..., None], output.logits, math.nan)
            output.logits.retain_grad()
            captured.append(output.logits)
            return output

    loss = trainer.compute_loss(Poisoned(), batch)
    loss.backward()
    assert loss.isfinite()
    assert (captured[0].grad[~used] == 0).all()
    assert (captured[0].grad[used].abs().sum(-1) > 0).all()


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rft", "asr-rft"])
def test_rft_resumes_to_the_same_weights(tmp_path: Path, tokenizer: Any, method: str) -> None:
    assert_resumes_to_the_same_bits(
        lambda directory, **options: make_trainer(
            method, directory, tokenizer, prompts(), tiny_reward_model(tokenizer), **options
        ),
        tmp_path,
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rft", "asr-rft"])
def test_rft_raises_the_reward(tmp_path: Path, tokenizer: Any, method: str) -> None:
    options = {"samples": 16, "num_train_epochs": 40, "learning_rate": 1e-2, "max_new_tokens": 4}
    options |= {} if method == "rft" else LITERAL
    trainer = make_trainer(method, tmp_path, tokenizer, **options)
    before = trainer.evaluate()
    with torch.no_grad():
        ids = [*PROMPTS[1]["prompt_ids"]]
        while len(ids) < 5 and ids[-1] != tokenizer.eos_token_id:
            ids.append(int(trainer.model(torch.tensor([ids])).logits[0, -1].argmax()))
    alone = trainer.predict(trainer.eval_dataset.select([1])).metrics
    assert alone["test_reward"] == pytest.approx(sum(worth(token) for token in ids[1:]), abs=1e-5)
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_reward"] > before["eval_reward"] + 1
    assert after["eval_loss"] == -after["eval_reward"]
    assert after["eval_nonfinite_rewards"] == 0
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[-1] < 0.5 * losses[0]


def test_asr_rft_report_examples_show_accepted_responses(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer("asr-rft", tmp_path, tokenizer, **LITERAL, report_responses=2)
    examples = trainer.report_examples()
    assert len(examples) == 2
    for example, row in zip(examples, trainer.train_dataset, strict=False):
        assert (example.label, example.kept, example.token_rewards) == ("accepted", row["mask"], row["token_rewards"])
        assert (example.low, example.high) == (-1.0, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples: expected >= 1, got 0"),
        ({"keep": 5, "samples": 4}, "keep: expected 1 <= keep <= samples=4, got 5"),
        ({"keep": 0}, "keep: expected 1 <= keep <= samples=8, got 0"),
        ({"token_rewards": "column"}, "token_rewards: expected one of 'difference', 'prefix', got 'column'"),
    ],
)
def test_rft_config_refuses_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ASRRFTConfig(use_cpu=True, **options)


def test_rft_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_files(tmp_path)
    quick = ("--use_cpu", "--disable_tqdm=True", "--max_new_tokens=6", "--max_prompt_length=32", "--samples=2")
    data = ("--prompts", files["preferences"], "--model", files["lm"], "--num_train_epochs=1", *quick)
    for method in ("rft", "asr-rft"):
        out = ("--output_dir", str(tmp_path / method))
        assert cli.main(["train", method, *data, *out]) == 2
        assert "reward_model: expected a directory (or --reward_policy DIR, or" in capsys.readouterr().err
        assert cli.main(["train", method, *data, *out, "--reward_model", files["rm"]]) == 0
        assert "held out\n  reward  " in capsys.readouterr().out
    # No calculation, no reward: every sample is as good as the other, and no segment is positive.
    checked = ("--check_calculations", "--output_dir", str(tmp_path / "checked"))
    assert cli.main(["train", "rft", *data, *checked]) == 0
    assert cli.main(["train", "asr-rft", *data, *checked[:1], "--output_dir", str(tmp_path / "none")]) == 2
    assert "no segment of any accepted response is positive" in capsys.readouterr().err
