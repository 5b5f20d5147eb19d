"""Optimizer steps over several micro-batches: the gradient and the log of one large batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Trainer

from segkernel.training import (
    AlignDistilConfig,
    AlignDistilTrainer,
    ASRDPOConfig,
    ASRDPOTrainer,
    ASRPPOConfig,
    ASRPPOTrainer,
    ASRRFTConfig,
    ASRRFTTrainer,
    PretrainConfig,
    PretrainTrainer,
    RewardConfig,
    RewardTrainer,
)
from tests.training.trainer_helpers import QUICK, QUICK_PAIRS, tiny_lm, tiny_reward_model, weights

ROWS = 8
# One step: weights move by minus the gradient.
STEP: dict[str, Any] = {"max_steps": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0}
STEP |= {"lr_scheduler_type": "constant"}
LENGTHS = (1, 15, 2, 9, 1, 12, 3, 1)  # of responses, in tokens


def response(prompt: int, length: int) -> list[int]:
    return [10 + (prompt * 7 + 3 * index) % 90 for index in range(length - 1)] + [1]


def scorer(batch: dict[str, Tensor]) -> Tensor:
    """Scores that go up and down within a response."""
    ids = batch["input_ids"].flatten(0, -2)
    return ((ids % 7 - 3.0) * batch["response_mask"].flatten(0, -2)).cumsum(1) / 3


def pair_rows() -> list[dict[str, Any]]:
    return [
        {"prompt_ids": [5, 6], "chosen_ids": response(row, n), "rejected_ids": response(row + 9, LENGTHS[row - 1])}
        for row, n in enumerate(LENGTHS)
    ]


def answer(prompts: list[list[int]], *args: Any, **kwargs: Any) -> list[list[int]]:
    """Responses in place of sampled ones: length and tokens follow from the prompt."""
    return [response(prompt[0] - 20, LENGTHS[prompt[0] - 20]) for prompt in prompts]


class AnsweredRFT(ASRRFTTrainer):
    sample = staticmethod(answer)


def make_trainer(method: str, output_dir: Path, tokenizer: Any, size: int, accumulated: int) -> Trainer:
    sizes = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated}
    sampling = {"max_new_tokens": 16, "max_prompt_length": 8}
    lm = tiny_lm(tokenizer, 1)
    prompt_rows = [{"prompt_ids": [20 + row, 5]} for row in range(ROWS)]
    if method == "pretrain":
        config = PretrainConfig(str(output_dir), **{**QUICK, **STEP, **sizes}, max_length=7)
        rows = [{"prompt": "a b", "completion": "red red blue"}] * 2
        trainer = PretrainTrainer(lm, config, rows, processing_class=tokenizer)
        blocks = [{"input_ids": [5, *response(row, n)]} for row, n in enumerate(LENGTHS)]
        trainer.train_dataset = type(trainer.train_dataset).from_list(blocks)
        return trainer
    if method == "asr-ppo":
        rollouts = {"minibatches": accumulated, "rollout_epochs": 1}
        ppo = ASRPPOConfig(str(output_dir), **{**QUICK, **STEP, **sizes, **sampling, **rollouts})
        trainer = ASRPPOTrainer(lm, ppo, prompt_rows, None, tokenizer, reward_model=scorer)
        trainer.sample = answer
        return trainer
    if method == "asr-rft":
        rft = ASRRFTConfig(str(output_dir), **{**QUICK, **STEP, **sizes, **sampling}, samples=1)
        return AnsweredRFT(lm, rft, prompt_rows, None, tokenizer, reward_model=scorer)
    settings = {**QUICK_PAIRS, **STEP, **sizes}
    if method == "reward":
        return RewardTrainer(tiny_reward_model(tokenizer, 1), RewardConfig(str(output_dir), **settings), pair_rows())
    if method == "asr-dpo":
        dpo = ASRDPOConfig(str(output_dir), **settings)
        return ASRDPOTrainer(
            lm, dpo, pair_rows(), None, tokenizer, ref_model=tiny_lm(tokenizer, 2), reward_model=scorer
        )
    return AlignDistilTrainer(
        lm,
        AlignDistilConfig(str(output_dir), **settings),
        pair_rows(),
        None,
        tokenizer,
        dpo_model=tiny_lm(tokenizer, 2),
        reverse_dpo_model=tiny_lm(tokenizer, 3),
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pretrain", "reward", "asr-dpo", "aligndistil", "asr-rft", "asr-ppo"])
def test_accumulated_micro_batches_step_like_one_batch(tmp_path: Path, tokenizer: Any, method: str) -> None:
    expected: dict[str, Tensor] = {}
    # 8, 1 + 1 + ..., and 3 + 3 + 2 rows; a rollout's minibatches are of equal size.
    for size, accumulated in [(8, 1), (1, 8), (4, 2) if method == "asr-ppo" else (3, 3)]:
        trainer = make_trainer(method, tmp_path / f"{size}", tokenizer, size, accumulated)
        before = weights(trainer)
        trainer.train()
        assert trainer.state.global_step == 1
        moved = {name: value - before[name] for name, value in weights(trainer).items()}
        logged = {n: v for n, v in trainer.state.log_history[0].items() if n not in ("epoch", "grad_norm")}
        if not expected:
            expected, first = moved, logged
            assert max(value.abs().max() for value in moved.values()) > 1e-3
        for name, value in moved.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")
        assert logged == pytest.approx(first, rel=1e-4, abs=1e-6)


def test_pretrain_held_out_loss_is_a_mean_over_tokens(tmp_path: Path, tokenizer: Any) -> None:
    losses = []
    for size in (2, 3):  # blocks of 8 tokens, the last one shorter
        config = PretrainConfig(str(tmp_path), **{**QUICK, "per_device_eval_batch_size": size}, max_length=8)
        rows = [{"prompt": "say red", "completion": "red red blue green"}] * 3
        trainer = PretrainTrainer(tiny_lm(tokenizer), config, rows, rows, processing_class=tokenizer)
        losses.append(trainer.evaluate()["eval_loss"])
    blocks = [torch.tensor([row["input_ids"]]) for row in trainer.eval_dataset]
    assert len({block.shape[1] for block in blocks}) == 2
    with torch.no_grad():
        total = sum(trainer.model(ids, labels=ids).loss.item() * (ids.shape[1] - 1) for ids in blocks)
    mean = total / sum(ids.shape[1] - 1 for ids in blocks)
    assert losses == pytest.approx([mean, mean], rel=1e-5)
