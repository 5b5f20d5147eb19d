"""Methods that select tokens of sampled responses, against literal transcriptions of their rules."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segkernel.training import (
    EntropyPPOConfig,
    EntropyPPOTrainer,
    PPOConfig,
    PPOTrainer,
    RandomPPOConfig,
    RandomPPOTrainer,
    SLMRFTConfig,
    SLMRFTTrainer,
)
from segkernel.training.selection.random_tokens import random_tokens
from segkernel.training.trainer.response_logits import response_logits
from tests.training.selection_helpers import PROMPTS, RESPONSES, lm, logprobs_of, ppo, rft
from tests.training.trainer_helpers import assert_resumes_to_the_same_bits, tiny_tokenizer


def test_slm_rft_loss_matches_its_rule(tmp_path: Path) -> None:
    for padding in ("right", "left"):
        tokenizer = tiny_tokenizer()
        tokenizer.padding_side = padding
        trainer = rft(SLMRFTConfig, SLMRFTTrainer, tmp_path, tokenizer, ref_model=lm(tokenizer, 2))
        plain, reference = copy.deepcopy(trainer.model), lm(tokenizer, 2)
        losses: list[Tensor] = []
        excess: list[float] = []
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
            losses += (-logprobs_of(plain, prompt, response)).unbind()
            excess += (-logprobs_of(plain, prompt, response) + logprobs_of(reference, prompt, response)).tolist()
        # The largest ceil(0.6 * 11) of the batch.
        selected = sorted(range(11), key=lambda token: -excess[token])[:7]
        expected = torch.stack([losses[token] for token in selected]).mean()
        loss = trainer.compute_loss(trainer.model, trainer.collate(trainer.train_dataset))
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        loss.backward()
        expected.backward()
        for found, wanted in zip(trainer.model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=1e-5)
        logs = {"loss": 0.0}
        trainer.log(logs)
        assert logs["kept"] == pytest.approx(7 / 11)
    # At another step another choice: by the policy as it is then.
    batch = trainer.collate(trainer.train_dataset)
    masks = []
    for seed in (1, 9):
        with torch.no_grad():
            logits = response_logits(lm(tokenizer, seed), batch)
        masks.append(trainer.trained_tokens(logits, batch))
    assert [int(mask.sum()) for mask in masks] == [7, 7]
    assert not torch.equal(*masks)


def test_slm_rft_step_is_a_mean_over_the_tokens_of_its_micro_batches(tmp_path: Path, tokenizer: Any) -> None:
    trainer = rft(SLMRFTConfig, SLMRFTTrainer, tmp_path, tokenizer, ref_model=lm(tokenizer, 2))
    batches = [trainer.collate([row]) for row in trainer.train_dataset]
    items = trainer.total_items(batches)
    assert items["tokens"].item() == 4 + 1 + 3  # ceil(0.6 * 6), ceil(0.6 * 1), ceil(0.6 * 4)


def test_entropy_ppo_loss_matches_its_rule(tmp_path: Path) -> None:
    for padding in ("right", "left"):
        tokenizer = tiny_tokenizer()
        tokenizer.padding_side = padding
        trainer = ppo(EntropyPPOConfig, EntropyPPOTrainer, tmp_path, tokenizer, value_coef=0.0)
        rollout = trainer.collect(PROMPTS, [(0, 0, row) for row in range(3)])
        # The update is by another policy than the one that sampled, whose entropies count.
        trainer.model.policy.load_state_dict(lm(tokenizer, 6).state_dict())
        trainer.model.eval()
        plain = copy.deepcopy(trainer.model.policy)
        entropies: list[float] = []
        losses: list[Tensor] = []
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            logits = plain(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
            distribution = torch.distributions.Categorical(logits=logits)
            entropies += distribution.entropy().tolist()
            kept = rollout["response_mask"][row]
            advantages, old = rollout["advantages"][row][kept], rollout["logprobs"][row][kept]
            ratio = (distribution.log_prob(torch.tensor(response)) - old).exp()
            losses += (-torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)).unbind()
        selected = sorted(range(11), key=lambda token: -entropies[token])[:3]  # ceil(0.2 * 11)
        expected = torch.stack([losses[token] for token in selected]).mean()
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, rollout)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
        loss.backward()
        expected.backward()
        for found, wanted in zip(trainer.model.policy.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=1e-5)
        logs = {"loss": 0.0}
        trainer.log(logs)
        assert logs["kept"] == pytest.approx(3 / 11)
    parts = [{name: values[row : row + 1] for name, values in rollout.items()} for row in range(3)]
    items = trainer.total_items(parts)
    assert (items["policy"].item(), items["response"].item()) == (2 + 1 + 1, 11)


def test_ppo_on_selected_tokens_keeps_the_value_loss_of_all(tmp_path: Path, tokenizer: Any) -> None:
    logged = []
    for config_type, trainer_type in (
        (PPOConfig, PPOTrainer),
        (EntropyPPOConfig, EntropyPPOTrainer),
        (RandomPPOConfig, RandomPPOTrainer),
    ):
        trainer = ppo(config_type, trainer_type, tmp_path, tokenizer)
        rollout = trainer.collect(PROMPTS, [(7, 2, row) for row in range(3)])
        trainer.compute_loss(trainer.model, rollout)
        logs = {"loss": 0.0}
        trainer.log(logs)
        logged.append(logs)
    assert logged[0]["loss/value"] == logged[1]["loss/value"] == logged[2]["loss/value"] > 0
    assert logged[0]["kept"] == 1
    masks = [random_tokens(len(response), 0.5, 1.0, (7, 2, row)) for row, response in enumerate(RESPONSES)]
    for row, mask in enumerate(masks):
        assert rollout["policy_mask"][row][rollout["response_mask"][row]].tolist() == mask.tolist()
    assert logged[2]["kept"] == pytest.approx(sum(map(sum, masks)) / 11)


@pytest.mark.parametrize("method", ["slm-rft", "random-ppo"])
def test_selection_on_sampled_responses_resumes_to_the_same_weights(
    tmp_path: Path, tokenizer: Any, method: str
) -> None:
    def build(directory: Path, **options: Any) -> Any:
        if method == "random-ppo":
            return ppo(RandomPPOConfig, RandomPPOTrainer, directory, tokenizer, rollout_epochs=3, **options)
        options |= {"ref_model": lm(tokenizer, 2), "per_device_train_batch_size": 1}
        return rft(SLMRFTConfig, SLMRFTTrainer, directory, tokenizer, **options)

    assert_resumes_to_the_same_bits(build, tmp_path)
