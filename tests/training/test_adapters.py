"""Adapters of peft: the reference, shared weights, saving, merging, resuming, and what is refused."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, GPT2Config, GPT2LMHeadModel
from transformers.modeling_layers import GradientCheckpointingLayer

from segkernel.training import (
    AlignDistilConfig,
    AlignDistilTrainer,
    ASRPPOConfig,
    ASRPPOTrainer,
    DPOConfig,
    DPOTrainer,
    PPOConfig,
    PPOTrainer,
    R3HFPPOConfig,
    R3HFPPOTrainer,
    RewardConfig,
    RewardTrainer,
    TokenPPOConfig,
    TokenPPOTrainer,
)
from segkernel.training.data.collators import PreferenceCollator
from segkernel.training.data.encoding import encode_preferences
from segkernel.training.models import adapter_base, adapters
from segkernel.training.models.adapter_base import base_model_of, find_adapter
from segkernel.training.models.adapter_options import AdapterArguments
from segkernel.training.models.adapters import with_adapter
from segkernel.training.models.paths import Location
from segkernel.training.trainer.batches import model_logits
from segkernel.training.trainer.reference import start_of
from tests.training.adapter_helpers import IDS, logits_of
from tests.training.trainer_helpers import (
    QUICK,
    QUICK_PAIRS,
    assert_resumes_to_the_same_bits,
    assert_same_bits,
    pairs,
    prompts,
    tiny_lm,
    tiny_reward_model,
    weights,
)

LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
ROLLOUT: dict[str, Any] = {**QUICK, "max_new_tokens": 4, "max_prompt_length": 32}


def length_score(batch: dict[str, Tensor]) -> Tensor:
    """Reward function: the score of a prefix grows with the token ids."""
    return batch["input_ids"].float() / 100


def moved_adapter(tokenizer: Any) -> PeftModel:
    """Model with an adapter that changes its logits, as one that was trained before."""
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.5, task_type="CAUSAL_LM")
    model = get_peft_model(tiny_lm(tokenizer), config)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def dpo(model: Any, output_dir: Path, tokenizer: Any, peft_config: Any = None, **options: Any) -> DPOTrainer:
    config = DPOConfig(str(output_dir), **{**QUICK_PAIRS, "max_steps": 2, **options})
    return DPOTrainer(model, config, pairs(), None, tokenizer, peft_config=peft_config)


def ppo(
    model: Any, output_dir: Path, tokenizer: Any, reward_model: Any, peft_config: Any = None, **options: Any
) -> Any:
    config = PPOConfig(str(output_dir), **{**ROLLOUT, **options})
    return PPOTrainer(model, config, prompts(), None, tokenizer, reward_model=reward_model, peft_config=peft_config)


# --- the reference ---------------------------------------------------------------------------------------------------


def test_first_dpo_loss_is_ln_2_with_a_new_and_with_a_trained_adapter(tmp_path: Path, tokenizer: Any) -> None:
    with_dropout = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
    new = dpo(tiny_lm(tokenizer), tmp_path, tokenizer, with_dropout)
    continued = dpo(moved_adapter(tokenizer), tmp_path, tokenizer)
    assert new.train_dataset["ref_logprobs"] != continued.train_dataset["ref_logprobs"]
    for trainer in (new, continued):
        trainer.train()
        losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
        assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
        assert losses[1] != losses[0]


def test_reference_of_a_new_adapter_is_the_model_without_it(tmp_path: Path, tokenizer: Any) -> None:
    trainer = ppo(tiny_lm(tokenizer), tmp_path, tokenizer, length_score, LORA, learning_rate=1e-2, max_steps=2)
    trainer.train()
    policy = trainer.model.policy
    with policy.disable_adapter():
        off = logits_of(policy)
    assert torch.equal(logits_of(trainer.reference), off)
    assert torch.equal(off, logits_of(tiny_lm(tokenizer)))
    assert (logits_of(policy) - off).abs().max() > 1e-3


def test_reference_of_a_trained_adapter_is_that_adapter(tokenizer: Any) -> None:
    policy = moved_adapter(tokenizer)
    start, reference = logits_of(policy), start_of(policy)
    policy.train()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(float(parameter.requires_grad))
    with torch.no_grad():
        logits = reference(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
    assert torch.equal(logits, start)
    assert policy.training
    assert not torch.equal(logits_of(policy), start)
    assert not any(True for _ in reference.parameters())  # a device or a mode set on it leaves the policy as it is


# --- weights in memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_model", [False, True])
def test_policy_value_model_and_reference_share_frozen_weights(tmp_path: Path, tokenizer: Any, by_model: bool) -> None:
    scorer = tiny_reward_model(tokenizer, seed=3) if by_model else length_score
    trainer = ppo(tiny_lm(tokenizer), tmp_path, tokenizer, scorer, LORA)
    policy, value = trainer.model.policy, trainer.model.value
    origin = trainer.scorer.model.model if by_model else policy.get_base_model().model
    weights = dict(origin.named_parameters())
    body = value.get_base_model().model.named_parameters()
    shared = {name.replace(".base_layer", "") for name, p in weights.items() if not p.requires_grad}
    assert shared == {n.replace(".base_layer", "") for n, p in body if any(p is weight for weight in weights.values())}
    # 2 layers of 2 adapters, 2 * 32 entries in and 2 * 32 out each; the value model's head has 32 weights and a bias.
    adapter = 2 * 2 * (2 * 32 + 2 * 32)
    assert sum(p.numel() for p in policy.parameters() if p.requires_grad) == adapter
    assert sum(p.numel() for p in value.parameters() if p.requires_grad) == adapter + 33


def test_value_model_of_a_trained_adapter_starts_at_0_on_its_body(tmp_path: Path, tokenizer: Any) -> None:
    policy = moved_adapter(tokenizer)
    trainer = ppo(policy, tmp_path, tokenizer, length_score)
    value = trainer.model.value
    assert logits_of(value).tolist() == [[[0.0]] * 5] * 2
    hidden, expected = (
        m.get_base_model().model(input_ids=IDS).last_hidden_state for m in (value.eval(), trainer.model.policy.eval())
    )
    assert torch.equal(hidden, expected)


def test_value_model_copies_a_reward_adapter_and_leaves_it_unchanged(tmp_path: Path, tokenizer: Any) -> None:
    reward_model = with_adapter(tiny_reward_model(tokenizer), LORA)
    before = copy.deepcopy(reward_model.state_dict())
    trainer = ppo(moved_adapter(tokenizer), tmp_path, tokenizer, reward_model, learning_rate=1e-2, max_steps=2)
    value = trainer.model.value
    assert torch.equal(logits_of(value), logits_of(reward_model))
    trainer.train()
    assert not torch.equal(logits_of(value), logits_of(reward_model))
    assert_same_bits(before, reward_model.state_dict())


def test_policy_and_teachers_of_aligndistil_share_frozen_weights(tmp_path: Path, tokenizer: Any) -> None:
    teachers = [moved_adapter(tokenizer), moved_adapter(tokenizer)]
    expected = [logits_of(teacher) for teacher in teachers]
    config = AlignDistilConfig(str(tmp_path), **{**QUICK_PAIRS, "max_steps": 2, "learning_rate": 1e-2})
    trainer = AlignDistilTrainer(
        tiny_lm(tokenizer),
        config,
        pairs(),
        None,
        tokenizer,
        dpo_model=teachers[0],
        reverse_dpo_model=teachers[1],
        peft_config=LoraConfig(r=2, target_modules="all-linear"),
    )
    policy = trainer.model
    frozen = sum(p.numel() for p in tiny_lm(tokenizer).parameters())
    distinct = {id(p): p.numel() for model in (policy, *teachers) for p in model.parameters()}
    adapters = [p.numel() for model in (policy, *teachers) for n, p in model.named_parameters() if "lora_" in n]
    assert sum(distinct.values()) == frozen + sum(adapters)
    trainer.train()
    assert all(torch.equal(logits_of(teacher), logits) for teacher, logits in zip(teachers, expected, strict=True))


# --- saving, merging, resuming ---------------------------------------------------------------------------------------


def test_dpo_with_an_adapter_resumes_to_the_same_bits(tmp_path: Path, tokenizer: Any) -> None:
    def make(output_dir: Path, **options: Any) -> DPOTrainer:
        return dpo(tiny_lm(tokenizer), output_dir, tokenizer, LORA, **options, max_steps=-1)

    assert_resumes_to_the_same_bits(make, tmp_path)


def test_ppo_with_adapters_resumes_to_the_same_bits(tmp_path: Path, tokenizer: Any) -> None:
    def make(output_dir: Path, **options: Any) -> Any:
        return ppo(moved_adapter(tokenizer), output_dir, tokenizer, length_score, **options, rollout_epochs=1)

    assert_resumes_to_the_same_bits(make, tmp_path)


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_saved_adapter_is_small_and_loads_with_peft(tmp_path: Path, tokenizer: Any) -> None:
    tiny_lm(tokenizer).save_pretrained(tmp_path / "lm")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    trainer = dpo(model, tmp_path / "dpo", tokenizer, LORA, learning_rate=1e-2)
    trainer.train()
    trainer.save_model()
    saved = files(tmp_path / "dpo")
    assert saved >= {"adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json"}
    assert not saved & {"model.safetensors", "config.json"}
    card = (tmp_path / "dpo" / "README.md").read_text(encoding="utf-8")
    assert f"Adapter (LORA) of `{tmp_path / 'lm'}`" in card
    assert "More Information" not in card
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "lm"), tmp_path / "dpo")
    assert torch.equal(logits_of(loaded), logits_of(trainer.model))


def test_merged_policy_and_value_model_give_the_logits_of_the_adapters(tmp_path: Path, tokenizer: Any) -> None:
    options = {"learning_rate": 1e-2, "max_steps": 2, "merge_adapter": True, "save_strategy": "steps", "save_steps": 2}
    trainer = ppo(tiny_lm(tokenizer), tmp_path, tokenizer, length_score, LORA, **options)
    trainer.train()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.save_model()
    assert_same_bits(before, trainer.model.state_dict())
    policy = AutoModelForCausalLM.from_pretrained(tmp_path)
    value = AutoModelForTokenClassification.from_pretrained(tmp_path / "value")
    torch.testing.assert_close(logits_of(policy), logits_of(trainer.model.policy), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits_of(value), logits_of(trainer.model.value), rtol=1e-5, atol=1e-5)
    assert (logits_of(policy) - logits_of(tiny_lm(tokenizer))).abs().max() > 1e-3
    for folder in (tmp_path, tmp_path / "value"):
        assert not [name for name in files(folder) if "adapter" in name or name == "README.md"]
        assert "adapter_model.safetensors" in files(tmp_path / "checkpoint-2")


# --- gradients, padding ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dpo", "ppo"])
def test_gradients_with_checkpointing_equal_those_without(tmp_path: Path, tokenizer: Any, method: str) -> None:
    norms = []
    for checkpointing in (False, True):
        options = {"activation_checkpointing": checkpointing, "max_steps": 2, "learning_rate": 1e-2}
        if method == "dpo":
            trainer = dpo(tiny_lm(tokenizer), tmp_path, tokenizer, LORA, **options)
        else:
            trainer = ppo(tiny_lm(tokenizer), tmp_path, tokenizer, length_score, LORA, **options)
        trainer.train()
        layers = [module for module in trainer.model.modules() if isinstance(module, GradientCheckpointingLayer)]
        assert len(layers) == (2 if method == "dpo" else 4)
        assert all(layer.gradient_checkpointing is checkpointing for layer in layers)
        norms.append([log["grad_norm"] for log in trainer.state.log_history if "grad_norm" in log])
    assert norms[0] == norms[1]
    assert min(norms[0]) > 0


def test_left_padding_does_not_change_logits_of_absolute_positions(tokenizer: Any) -> None:
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=1
    )
    model = with_adapter(GPT2LMHeadModel(config), LoraConfig(r=2)).eval()
    rows = encode_preferences(pairs(3), tokenizer, max_length=64)
    right, left = (PreferenceCollator(tokenizer.pad_token_id, side)(rows) for side in ("right", "left"))
    with torch.no_grad():
        expected, found = (model_logits(model, batch)[batch["response_mask"].flatten(0, 1)] for batch in (right, left))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_reward_model_with_an_adapter_trains_its_head_and_saves_it(tmp_path: Path, tokenizer: Any) -> None:
    model = tiny_reward_model(tokenizer)
    head = model.score.weight.detach().clone()
    config = RewardConfig(str(tmp_path), **{**QUICK_PAIRS, "max_steps": 2, "learning_rate": 1e-2})
    trainer = RewardTrainer(model, config, pairs(), None, tokenizer, peft_config=LORA)
    trainer.train()
    trainer.save_model()
    loaded = PeftModel.from_pretrained(tiny_reward_model(tokenizer), tmp_path)
    assert torch.equal(logits_of(loaded), logits_of(trainer.model))
    assert not torch.equal(loaded.get_base_model().score.weight, head)


def test_refused_adapters_name_the_argument(tmp_path: Path, tokenizer: Any) -> None:
    frozen = moved_adapter(tokenizer).requires_grad_(False)
    virtual = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    for model, config, options, message in (
        (moved_adapter(tokenizer), LORA, {}, "peft_config: expected a model without an adapter, got"),
        (frozen, None, {}, "model: expected an adapter with trainable weights, got a frozen one"),
        (tiny_lm(tokenizer), virtual, {}, "peft_config: expected a method without virtual tokens"),
        (tiny_lm(tokenizer), {"r": 2}, {}, "peft_config: expected a config of peft, such as LoraConfig, got dict"),
        (tiny_lm(tokenizer), LoraConfig(target_modules=["wq"]), {}, "target_modules: "),
        (tiny_lm(tokenizer), None, {"merge_adapter": True}, "merge_adapter: expected a model with an adapter"),
    ):
        with pytest.raises(ValueError, match=message):
            dpo(model, tmp_path, tokenizer, config, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_r": 8}, "lora_r: expected no value without `--peft lora`, got 8"),
        ({"peft": "lora", "lora_r": 0}, "lora_r: expected >= 1, got 0"),
        ({"peft": "lora", "lora_dropout": 1.0}, "lora_dropout: expected 0 <= lora_dropout < 1"),
    ],
)
def test_adapter_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterArguments(**options)


def test_config_file_makes_an_adapter_of_any_method(tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "ia3.json"
    file.write_text(json.dumps({"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []}))
    trainer = dpo(tiny_lm(tokenizer), tmp_path, tokenizer, AdapterArguments(peft=str(file)).peft_config())
    trained = {name.split(".")[-2] for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained == {"ia3_l"}
    file.write_text('{"peft_type": "LORRA"}')
    with pytest.raises(ValueError, match="peft: expected a JSON file of a peft config, got"):
        AdapterArguments(peft=str(file)).peft_config()
    with pytest.raises(ValueError, match="peft: expected `lora` or a JSON file of a peft config, got 'lorra'"):
        AdapterArguments(peft="lorra").peft_config()


def test_adapter_on_the_hub_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_base, "locate", lambda path, option: Location(path, {}))
    monkeypatch.setattr(adapter_base, "file_exists", lambda name, file: name == "owner/adapter")
    monkeypatch.setattr(adapter_base, "snapshot_download", lambda name: str(tmp_path / name))
    assert find_adapter("owner/adapter", "model") == tmp_path / "owner" / "adapter"
    assert find_adapter("owner/model", "model") is None


def test_relative_base_model_is_found_above_the_adapter(tmp_path: Path) -> None:
    (tmp_path / "runs" / "lm").mkdir(parents=True)
    adapter = tmp_path / "runs" / "dpo"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "runs/lm"}))
    assert base_model_of(str(adapter), "model") == str(tmp_path / "runs" / "lm")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": None}))
    with pytest.raises(ValueError, match="expected base_model_name_or_path"):
        base_model_of(str(adapter), "model")


@pytest.mark.parametrize(
    ("config_type", "trainer_type", "options"),
    [
        (ASRPPOConfig, ASRPPOTrainer, {"delta": 0.01}),
        (TokenPPOConfig, TokenPPOTrainer, {}),
        (R3HFPPOConfig, R3HFPPOTrainer, {}),
    ],
)
def test_variants_of_ppo_train_both_adapters(
    tmp_path: Path, tokenizer: Any, config_type: Any, trainer_type: Any, options: dict[str, Any]
) -> None:
    config = config_type(str(tmp_path), **{**ROLLOUT, **options, "max_steps": 1})
    trainer = trainer_type(
        tiny_lm(tokenizer), config, prompts(), None, tokenizer, reward_model=length_score, peft_config=LORA
    )
    before = weights(trainer)
    trainer.train()
    changed = {name.split(".")[0] for name, value in weights(trainer).items() if not torch.equal(value, before[name])}
    assert changed == {"policy", "value"}
    assert all("lora_" in n or ".score." in n for n, p in trainer.model.named_parameters() if p.requires_grad)


def test_peft_is_imported_only_where_an_adapter_is_used() -> None:
    for path in Path(adapters.__file__).parents[1].rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert not line.startswith(("import peft", "from peft")), path
