"""DPO, whole and on segments, against one response at a time in plain floats; and runs of the trainers on files."""

import math
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from segkernel.training import (
    ASRDPOConfig,
    ASRDPOTrainer,
    DPOConfig,
    DPOTrainer,
    PretrainConfig,
    PretrainTrainer,
    RewardConfig,
    RewardTrainer,
)
from segkernel.training.data.columns import SIDES
from segkernel.training.data.encoding import encode_preferences
from segkernel.training.trainer import preference
from tests.ops.plain_floats import logprobs_alone, schmitt, scores_alone
from tests.training.trainer_helpers import (
    QUICK_PAIRS,
    assert_resumes_to_the_same_bits,
    assert_same_bits,
    pairs,
    tiny_lm,
    tiny_reward_model,
    tiny_tokenizer,
    weights,
)


def log_ratio(policy: nn.Module, reference: nn.Module, row: dict[str, Any], side: str) -> float:
    """Log-ratio of a single response, summed over its loss mask, or over all of it without a mask."""
    ids = row["prompt_ids"], row[f"{side}_ids"]
    mask = row.get(f"{side}_mask", [True] * len(row[f"{side}_ids"]))
    both = zip(logprobs_alone(policy, *ids), logprobs_alone(reference, *ids), mask, strict=True)
    return sum(p - q for p, q, kept in both if kept)


def minus_log_sigmoid(x: float) -> float:
    return math.log1p(math.exp(-x))


def with_column_rewards(tokenizer: Any, chosen: float, rejected: float) -> list[dict[str, Any]]:
    """Pairs whose tokens all have one reward per side."""
    rows = pairs()
    for row in rows:
        for side, reward in zip(SIDES, (chosen, rejected), strict=True):
            row[f"{side}_token_rewards"] = [reward] * (len(tokenizer(row[side])["input_ids"]) + 1)
    return rows


# --- what the losses see ---------------------------------------------------------------------------------------------


def test_dpo_loss_of_a_batch_matches_separate_sequences(tmp_path: Path, tokenizer: Any) -> None:
    policy, reference = tiny_lm(tokenizer, seed=1), tiny_lm(tokenizer, seed=2)
    trainer = DPOTrainer(
        policy, DPOConfig(str(tmp_path), beta=0.3, **QUICK_PAIRS), pairs(4), None, tokenizer, ref_model=reference
    )
    batch = trainer.data_collator(trainer.train_dataset)
    policy.eval()
    reference.eval()
    with torch.no_grad():
        losses, metrics = trainer.pair_losses(policy, batch)
        for index, row in enumerate(trainer.train_dataset):
            chosen, rejected = (0.3 * log_ratio(policy, reference, row, side) for side in SIDES)
            assert losses[index].item() == pytest.approx(minus_log_sigmoid(chosen - rejected), rel=1e-4, abs=1e-5)
            assert metrics["rewards/chosen"][index].item() == pytest.approx(chosen, rel=1e-3, abs=1e-4)
            assert metrics["rewards/accuracies"][index] == (chosen > rejected)
    assert metrics["kept_chosen"].tolist() == [1.0] * 4
    assert not [name for name in metrics if name.startswith("masked_")]  # without masks they would be the same


def test_asr_dpo_mask_and_loss_literals(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        {
            "prompt_ids": [5, 6],
            "chosen_ids": [7, 8, 9, 10, 11],
            "rejected_ids": [12, 13, 14],
            # Trigger at +-1: + (hold) - - +, of which a chosen response keeps tokens 0, 1 and 4.
            "chosen_token_rewards": [2.0, 0.5, -3.0, -0.5, 1.5],
            # + - (hold), of which a rejected response keeps tokens 1 and 2.
            "rejected_token_rewards": [4.0, -2.0, 0.0],
        },
        {
            "prompt_ids": [5],
            "chosen_ids": [7],
            "rejected_ids": [8, 9],
            "chosen_token_rewards": [1.0],
            "rejected_token_rewards": [-1.0, -1.5],
        },
    ]
    options = {"token_rewards": "column", "baseline": 0.0, "delta": 1.0, "threshold_unit": "reward"}
    policy, reference = tiny_lm(tokenizer, seed=1), tiny_lm(tokenizer, seed=2)

    def credit(batch: dict[str, Tensor]) -> Tensor:
        """Right are the tokens below 10."""
        return torch.where(batch["input_ids"].flatten(0, -2) < 10, 1, -1)

    trainer = ASRDPOTrainer(
        policy,
        ASRDPOConfig(str(tmp_path), **options, **QUICK_PAIRS),
        rows,
        rows,
        tokenizer,
        ref_model=reference,
        token_credit=credit,
    )
    first, second = trainer.train_dataset
    assert first["chosen_mask"] == [True, True, False, False, True]
    assert first["rejected_mask"] == [False, True, True]
    assert first["segments"] == [3, 2]
    # A reward on the threshold stays neutral; the state before the first token is neutral too.
    assert (second["chosen_mask"], second["rejected_mask"]) == ([False], [False, True])
    assert second["segments"] == [1, 2]
    # Chosen 7 8 9 | 10 11: kept 1 1 0 0 1, to keep 1 1 1 0 0. Rejected 12 13 14: kept 0 1 1, to keep all.
    assert first["mask_agreement"] == pytest.approx([3 / 5, 2 / 3])
    # 7 is right and not kept; of 8 and 9, both right, the second is kept.
    assert second["mask_agreement"] == pytest.approx([0.0, 0.5])

    policy.eval()
    reference.eval()
    with torch.no_grad():
        losses, metrics = trainer.pair_losses(policy, trainer.data_collator(trainer.train_dataset))
    chosen, rejected = (0.1 * log_ratio(policy, reference, first, side) for side in SIDES)
    assert losses[0].item() == pytest.approx(minus_log_sigmoid(chosen - rejected), rel=1e-4, abs=1e-5)
    assert metrics["kept_chosen"].tolist() == pytest.approx([0.6, 0.0])
    assert metrics["kept_rejected"].tolist() == pytest.approx([2 / 3, 0.5])
    assert metrics["segments/chosen"].tolist() == [3.0, 1.0]
    assert metrics["mask_agreement"].tolist() == pytest.approx([(3 / 5 + 2 / 3) / 2, 0.25])
    # The side without a token has a log-ratio of 0, not NaN.
    assert metrics["masked_rewards/chosen"].tolist() == pytest.approx([chosen, 0.0], rel=1e-3)
    assert metrics["masked_rewards/margins"][0].item() == pytest.approx(chosen - rejected, rel=1e-3)
    # The standard names are of whole responses, in training as in evaluation.
    whole = [
        [0.1 * log_ratio(policy, reference, {name: row[name] for name in ids}, side) for side in SIDES]
        for ids in (("prompt_ids", "chosen_ids", "rejected_ids"),)
        for row in (first, second)
    ]
    policy.train()
    training = trainer.pair_losses(policy, trainer.data_collator(trainer.train_dataset))[1]
    for found in (metrics, training):
        assert found["rewards/chosen"].tolist() == pytest.approx([row[0] for row in whole], rel=1e-3)
        assert found["rewards/rejected"].tolist() == pytest.approx([row[1] for row in whole], rel=1e-3)
        assert found["rewards/accuracies"].tolist() == [row[0] > row[1] for row in whole]
        assert found["masked_rewards/accuracies"].tolist() == (metrics["masked_rewards/margins"] > 0).tolist()
    assert not metrics["rewards/chosen"].requires_grad
    assert losses.isfinite().all()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", ["difference", "prefix"])
@pytest.mark.parametrize("delta", [0.0, 0.6, 50.0])
def test_asr_dpo_loss_matches_plain_floats(tmp_path: Path, side: str, kind: str, delta: float) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = side
    rows = [  # the second pair has a response of one token, nothing but the EOS
        {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9, 10, 11, 1], "rejected_ids": [12, 13, 1]},
        {"prompt_ids": [14], "chosen_ids": [1], "rejected_ids": [15, 16, 17, 1]},
    ]
    options = {"token_rewards": kind, "delta": delta, "threshold_unit": "reward", "baseline": 0.05, "beta": 0.3}
    policy, reference, scorer = tiny_lm(tokenizer, 1), tiny_lm(tokenizer, 2), tiny_reward_model(tokenizer, 3)
    scorer.score.weight.data *= 20
    config = ASRDPOConfig(str(tmp_path), **options, **QUICK_PAIRS)
    make = partial(ASRDPOTrainer, policy, config, rows, None, tokenizer)
    if delta == 50.0:  # all neutral
        with pytest.raises(ValueError, match="nothing to train on"):
            make(ref_model=reference, reward_model=scorer)
        return
    trainer = make(ref_model=reference, reward_model=scorer)
    policy.eval()
    with torch.no_grad():
        losses, _ = trainer.pair_losses(policy, trainer.data_collator(trainer.train_dataset))

    kept = 0
    for row, loss in zip(rows, losses.tolist(), strict=True):
        rewards = []
        for name, sign in (("chosen", 1), ("rejected", -1)):
            prompt, response = row["prompt_ids"], row[f"{name}_ids"]
            scores = scores_alone(scorer, prompt, response)
            token_rewards = scores[1:] if kind == "prefix" else [b - a for a, b in pairwise(scores)]
            # The EOS belongs to the segment before it, is neutral by itself, and is never suppressed.
            states = schmitt(token_rewards[:-1], 0.05 - delta, 0.05 + delta)
            states += [max(0, *states[-1:])] if states else [0]
            policy_logprobs = logprobs_alone(policy, prompt, response)
            ref_logprobs = logprobs_alone(reference, prompt, response)
            mask = [state == sign for state in states]
            kept += sum(mask)
            ratio = sum(p - q for p, q, m in zip(policy_logprobs, ref_logprobs, mask, strict=True) if m)
            rewards.append(0.3 * ratio)
        # -log sigmoid(r_w - r_l); a pair without a token trains nothing.
        empty = rewards == [0.0, 0.0]
        assert loss == pytest.approx(0.0 if empty else minus_log_sigmoid(rewards[0] - rewards[1]), rel=1e-4)
    assert 0 < kept < 9


def test_dpo_masked_and_padded_tokens_have_no_gradient(tmp_path: Path, tokenizer: Any) -> None:
    trainer = DPOTrainer(tiny_lm(tokenizer), DPOConfig(str(tmp_path), **QUICK_PAIRS), pairs(4), None, tokenizer)
    rows = [{**row, "chosen_mask": [False] * len(row["chosen_ids"])} for row in trainer.train_dataset]
    rows = [{**row, "rejected_mask": [True] + [False] * (len(row["rejected_ids"]) - 1)} for row in rows]
    batch = trainer.data_collator(rows)
    captured: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
            output = trainer.model(input_ids=input_ids, attention_mask=attention_mask)
            # Poison: logits that predict a token outside the loss mask.
            used = batch["loss_mask"].flatten(0, 1).roll(-1, dims=1)
            logits = torch.where(used[..., None], output.logits, math.nan)
            logits.retain_grad()
            captured.append(logits)
            output.logits = logits
            return output

    losses, _ = trainer.pair_losses(Spy(), batch)
    losses.sum().backward()
    assert losses.isfinite().all()
    used = batch["loss_mask"].flatten(0, 1).roll(-1, dims=1)
    assert (captured[0].grad[~used] == 0).all()
    assert (captured[0].grad[used].abs().sum(-1) > 0).all()


def test_dpo_batch_with_empty_masks_has_zero_loss_and_gradient(tmp_path: Path, tokenizer: Any) -> None:
    trainer = DPOTrainer(tiny_lm(tokenizer), DPOConfig(str(tmp_path), **QUICK_PAIRS), pairs(4), None, tokenizer)
    empty = [
        {**row, **{f"{side}_mask": [False] * len(row[f"{side}_ids"]) for side in SIDES}}
        for row in trainer.train_dataset
    ]
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(empty))
    loss.backward()
    assert loss.item() == 0.0
    gradients = [p.grad for p in trainer.model.parameters()]
    assert [gradient.abs().max().item() for gradient in gradients] == [0.0] * len(gradients)
    logs: dict[str, float] = {"loss": 0.0}
    trainer.log(logs)
    assert (logs["empty_pairs"], logs["kept_chosen"]) == (1.0, 0.0)


def test_optimizer_step_with_empty_masks_is_skipped_and_counted(tmp_path: Path, tokenizer: Any) -> None:
    options = {**QUICK_PAIRS, "per_device_train_batch_size": 1, "num_train_epochs": 1, "weight_decay": 0.1}
    trainer = DPOTrainer(tiny_lm(tokenizer), DPOConfig(str(tmp_path), **options), pairs(6), None, tokenizer)
    trainer.train_dataset = [
        {**row, **{f"{side}_mask": [index % 2 == 1] * len(row[f"{side}_ids"]) for side in SIDES}}
        for index, row in enumerate(trainer.train_dataset)
    ]
    history = [weights(trainer)]

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            history.append(weights(trainer))

    trainer.add_callback(Watch())
    trainer.train()
    moved = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(history)]
    # Momentum and weight decay of the other steps move nothing here.
    assert moved == [log["skipped_steps"] == 0 for log in trainer.state.log_history if "skipped_steps" in log]
    assert sorted(moved) == [False] * 3 + [True] * 3


def test_asr_dpo_names_a_row_without_token_rewards(tmp_path: Path, tokenizer: Any) -> None:
    rows = with_column_rewards(tokenizer, chosen=1.0, rejected=-1.0)
    del rows[3]["rejected_token_rewards"]
    config = ASRDPOConfig(str(tmp_path), token_rewards="column", **QUICK_PAIRS)
    with pytest.raises(ValueError, match=r"eval_dataset\[3\]: rejected_token_rewards: expected one value"):
        ASRDPOTrainer(tiny_lm(tokenizer), config, rows[:3], rows, tokenizer)


def test_trainer_encodes_every_data_set_once(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []

    def count(rows: Any, *args: Any, **kwargs: Any) -> Any:
        encoded.append(kwargs["name"])
        return encode_preferences(rows, *args, **kwargs)

    monkeypatch.setattr(preference, "encode_preferences", count)
    make_trainer("asr-dpo", tmp_path, tokenizer)
    assert encoded == ["train_dataset", "eval_dataset"]


def test_asr_dpo_refuses_masks_that_are_all_empty(tmp_path: Path, tokenizer: Any) -> None:
    rows = with_column_rewards(tokenizer, chosen=-1.0, rejected=1.0)
    config = ASRDPOConfig(str(tmp_path), token_rewards="column", **QUICK_PAIRS)
    with pytest.raises(ValueError, match="no segment of any training pair agrees with its response"):
        ASRDPOTrainer(tiny_lm(tokenizer), config, rows, None, tokenizer)


def test_asr_dpo_refuses_a_reward_model_that_returns_nan(tmp_path: Path, tokenizer: Any) -> None:
    scorer = tiny_reward_model(tokenizer)
    scorer.score.weight.data.fill_(math.nan)
    with pytest.raises(ValueError, match="reward_model: expected finite scores, got NaN or infinity"):
        ASRDPOTrainer(
            tiny_lm(tokenizer),
            ASRDPOConfig(str(tmp_path), **QUICK_PAIRS),
            pairs(4),
            None,
            tokenizer,
            reward_model=scorer,
        )


def test_asr_dpo_with_full_masks_has_the_same_bits_as_dpo(tmp_path: Path, tokenizer: Any) -> None:
    rows = with_column_rewards(tokenizer, chosen=1.0, rejected=-1.0)
    plain = DPOTrainer(tiny_lm(tokenizer), DPOConfig(str(tmp_path / "a"), **QUICK_PAIRS), rows, None, tokenizer)
    config = ASRDPOConfig(str(tmp_path / "b"), token_rewards="column", **QUICK_PAIRS)
    segmented = ASRDPOTrainer(tiny_lm(tokenizer), config, rows, None, tokenizer)
    start = weights(plain)
    plain.train()
    segmented.train()
    assert not torch.equal(start["lm_head.weight"], weights(plain)["lm_head.weight"])
    assert_same_bits(weights(plain), weights(segmented))


# --- training loops --------------------------------------------------------------------------------------------------


def make_trainer(method: str, output_dir: Path, tokenizer: Any, **options: Any) -> Trainer:
    settings = {**QUICK_PAIRS, **options}
    if method == "pretrain":
        rows = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in pairs()]
        settings["max_length"] = 15
        config = PretrainConfig(str(output_dir), **settings)
        return PretrainTrainer(tiny_lm(tokenizer), config, rows, rows, processing_class=tokenizer)
    if method == "reward":
        config = RewardConfig(str(output_dir), **settings)
        return RewardTrainer(tiny_reward_model(tokenizer), config, pairs(), pairs(), tokenizer)
    if method == "dpo":
        return DPOTrainer(tiny_lm(tokenizer), DPOConfig(str(output_dir), **settings), pairs(), pairs(), tokenizer)
    config = ASRDPOConfig(str(output_dir), **settings)
    scorer = tiny_reward_model(tokenizer)
    return ASRDPOTrainer(tiny_lm(tokenizer), config, pairs(), pairs(), tokenizer, reward_model=scorer)


@pytest.mark.parametrize("method", ["pretrain", "reward", "dpo", "asr-dpo"])
def test_trainer_resumes_to_the_same_weights(tmp_path: Path, tokenizer: Any, method: str) -> None:
    assert_resumes_to_the_same_bits(
        lambda directory, **options: make_trainer(method, directory, tokenizer, **options), tmp_path
    )


@pytest.mark.parametrize("method", ["pretrain", "asr-dpo"])
def test_trainer_refuses_the_directory_of_another_run(tmp_path: Path, tokenizer: Any, method: str) -> None:
    (tmp_path / "checkpoint-10").mkdir()
    trainer = make_trainer(method, tmp_path, tokenizer)
    start = weights(trainer)
    with pytest.raises(FileExistsError, match=r"output_dir: .* already holds a run \(checkpoint-10\)"):
        trainer.train()
    assert_same_bits(start, weights(trainer))


def test_bf16_stays_near_float32(tmp_path: Path, tokenizer: Any) -> None:
    full, half = (make_trainer("asr-dpo", tmp_path / str(bf16), tokenizer, bf16=bf16) for bf16 in (False, True))
    for trainer in (full, half):
        trainer.train()
    losses = [[log["loss"] for log in t.state.log_history if "loss" in log] for t in (full, half)]
    assert losses[1] != losses[0]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("method", ["dpo", "asr-dpo"])
def test_dpo_lowers_its_loss_and_logs_its_metrics(tmp_path: Path, tokenizer: Any, method: str) -> None:
    trainer = make_trainer(method, tmp_path, tokenizer, num_train_epochs=12, learning_rate=3e-3)
    before = trainer.evaluate()
    # The policy is its own reference at the start.
    assert before["eval_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert before["eval_rewards/margins"] == pytest.approx(0, abs=1e-5)
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < 0.9 * math.log(2)
    trained = "eval_masked_rewards/accuracies" if method == "asr-dpo" else "eval_rewards/accuracies"
    assert after[trained] >= 10 / 12
    assert after["eval_rewards/margins"] == pytest.approx(
        after["eval_rewards/chosen"] - after["eval_rewards/rejected"], abs=1e-5
    )
    logged = next(log for log in trainer.state.log_history if "loss" in log)
    expected = {"rewards/chosen", "rewards/accuracies", "rewards/margins", "logps/chosen", "kept_chosen", "empty_pairs"}
    if method == "asr-dpo":
        expected |= {"segments/chosen", "segments/rejected", "masked_rewards/accuracies", "masked_rewards/margins"}
        assert 0 < logged["kept_chosen"] < 1
    else:
        assert logged["kept_chosen"] == 1
    assert expected <= logged.keys()


def test_pretrain_loss_matches_the_model(tmp_path: Path, tokenizer: Any) -> None:
    trainer = make_trainer("pretrain", tmp_path, tokenizer, num_train_epochs=10, learning_rate=1e-2)
    batch = trainer.data_collator(trainer.train_dataset)
    assert not batch["attention_mask"].all()
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    trainer.model.eval()
    with torch.no_grad():
        expected = trainer.model(**batch, labels=labels).loss
        torch.testing.assert_close(trainer.compute_loss(trainer.model, batch), expected)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.7 * before
