"""Special tokens of a model's configs, aligned with its tokenizer before training; forward passes without a cache."""

import copy
import logging
import warnings

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.trainer_utils import align_special_tokens as align_by_transformers

from segkernel.training import DPOConfig, DPOTrainer
from segkernel.training.models.special_tokens import align_special_tokens
from tests.training.trainer_helpers import QUICK_PAIRS, pairs, tiny_tokenizer


def tiny_gpt2(tokenizer, **ids):
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2, **ids))


@pytest.mark.parametrize("ends", [None, 7, [7, 9], [7, 1]])
def test_special_tokens_are_those_of_transformers_without_its_warning(ends, caplog):
    tokenizer = tiny_tokenizer()
    model = tiny_gpt2(tokenizer, eos_token_id=7, bos_token_id=5)
    model.generation_config.eos_token_id = ends
    expected = copy.deepcopy(model)
    caplog.set_level(logging.WARNING, logger="transformers")
    align_by_transformers(expected, tokenizer)
    assert "differ from the model config" in caplog.text
    caplog.clear()
    align_special_tokens(model, tokenizer)
    align_by_transformers(model, tokenizer)
    assert caplog.text == ""
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    for config in ("config", "generation_config"):
        found, wanted = (getattr(m, config) for m in (model, expected))
        for name in names:
            one, other = getattr(found, name), getattr(wanted, name)
            assert sorted(one) == sorted(other) if isinstance(other, list) else one == other
    assert (model.config.eos_token_id, model.config.pad_token_id) == (1, 0)


def test_training_with_recomputed_activations_warns_of_nothing(tmp_path, caplog):
    tokenizer = tiny_tokenizer()
    model = tiny_gpt2(tokenizer, eos_token_id=1, bos_token_id=1)
    config = DPOConfig(output_dir=str(tmp_path), **{**QUICK_PAIRS, "max_steps": 1})
    trainer = DPOTrainer(model, config, pairs(4), processing_class=tokenizer)
    passes = []
    model.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append((module.training, kwargs["use_cache"])), with_kwargs=True
    )
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        # `gradient_checkpointing_enable` before transformers 5.24.
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        trainer.train()
    assert caplog.text == ""
    assert passes == [(True, False)]  # keys and values are kept for generation only
