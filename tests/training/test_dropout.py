"""Dropout of trained models: off where a loss compares the model with a frozen or earlier one."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from segkernel.training import DPOConfig, DPOTrainer, PPOConfig, PPOTrainer, PretrainConfig, RFTConfig
from segkernel.training.trainer.batches import model_inputs
from segkernel.training.trainer.dropout import disable_dropout
from segkernel.training.trainer.response_logits import logprobs_under
from tests.training.trainer_helpers import QUICK, QUICK_PAIRS, pairs, prompts, tiny_config, tiny_lm


def gpt2(tokenizer: Any) -> GPT2LMHeadModel:
    """Model with GPT-2's default dropout of 0.1."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64))


def gpt_neo(tokenizer: Any) -> GPTNeoForCausalLM:
    """Model that reads the dropout of its attention weights from its config."""
    sizes = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "attention_types": [[["global"], 1]]}
    rates = {"embed_dropout": 0.3, "attention_dropout": 0.3, "resid_dropout": 0.3}
    return GPTNeoForCausalLM(GPTNeoConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes, **rates))


def opt(tokenizer: Any) -> OPTForCausalLM:
    """Model with its rates in float attributes, one of them to skip whole layers."""
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 16, "num_hidden_layers": 2}
    rates = {"dropout": 0.3, "attention_dropout": 0.3, "layerdrop": 0.5}
    config = OPTConfig(vocab_size=len(tokenizer), num_attention_heads=2, max_position_embeddings=64, **sizes, **rates)
    return OPTForCausalLM(config)


def llama(tokenizer: Any) -> nn.Module:
    """Model whose only dropout is that of the attention weights."""
    return type(tiny_lm(tokenizer))(tiny_config(tokenizer, attention_dropout=0.5))


def lora(tokenizer: Any) -> nn.Module:
    adapter = LoraConfig(r=2, lora_dropout=0.5, target_modules=["q_proj"], init_lora_weights=False)
    return get_peft_model(llama(tokenizer), adapter)


@pytest.mark.parametrize("make", [gpt2, gpt_neo, opt, llama, lora])
def test_disabled_dropout_gives_training_the_logits_of_evaluation(tokenizer: Any, make: Any) -> None:
    model = make(tokenizer)
    input_ids = torch.arange(5, 37).view(2, 16)
    with torch.no_grad():
        expected = model.eval()(input_ids=input_ids).logits
        model.train()
        assert not torch.equal(model(input_ids=input_ids).logits, expected)
        disable_dropout(model)
        assert torch.equal(model(input_ids=input_ids).logits, expected)
    assert model.training


def test_disabled_dropout_leaves_the_saved_config(tokenizer: Any, tmp_path: Path) -> None:
    model = gpt_neo(tokenizer)
    disable_dropout(model)
    model.save_pretrained(tmp_path)
    saved = GPTNeoForCausalLM.from_pretrained(tmp_path)
    assert saved.config.attention_dropout == 0.3
    assert saved.transformer.drop.p == pytest.approx(0.3)


@pytest.mark.parametrize(("off", "adapter"), [(True, False), (False, False), (True, True)])
def test_dpo_first_loss_is_ln_2_without_dropout(tokenizer: Any, tmp_path: Path, off: bool, adapter: bool) -> None:
    config = DPOConfig(str(tmp_path), max_steps=1, **{**QUICK_PAIRS, **({} if off else {"disable_dropout": False})})
    peft = {"peft_config": LoraConfig(r=2, lora_dropout=0.5, target_modules=["c_attn"], init_lora_weights=False)}
    trainer = DPOTrainer(gpt2(tokenizer), config, pairs(4), None, tokenizer, **(peft if adapter else {}))
    trainer.train()
    first = trainer.state.log_history[0]
    if off:
        assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
        assert first["rewards/chosen"] == first["rewards/rejected"] == 0.0
    else:
        assert first["loss"] != pytest.approx(math.log(2), abs=1e-4)


def test_ppo_first_ratio_is_1_with_a_model_that_has_dropout(tokenizer: Any, tmp_path: Path) -> None:
    options = {**QUICK, "max_new_tokens": 4, "max_prompt_length": 16, "max_steps": 1, "rollout_epochs": 1}

    def reward(batch: dict[str, Tensor]) -> Tensor:
        return batch["input_ids"].float() / 100

    trainer = PPOTrainer(
        gpt2(tokenizer), PPOConfig(str(tmp_path), **options), prompts(4), None, tokenizer, reward_model=reward
    )
    ratios = []
    loss = trainer.compute_loss

    def spy(model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any) -> Any:
        assert model.training
        logits, _ = model(**model_inputs(inputs))
        logprobs = logprobs_under(logits, inputs, inputs["policy_mask"])
        ratios.extend((logprobs - inputs["logprobs"])[inputs["policy_mask"]].exp().tolist())
        return loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = spy
    trainer.train()
    assert ratios
    assert set(ratios) == {1.0}


def test_supervised_methods_keep_dropout_by_default(tmp_path: Path) -> None:
    assert not PretrainConfig(str(tmp_path), use_cpu=True).disable_dropout
    assert not RFTConfig(str(tmp_path), use_cpu=True).disable_dropout
