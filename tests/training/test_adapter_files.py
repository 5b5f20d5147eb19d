"""Adapters in directories: on the command line, as any model that a method reads, and as reward models."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, Olmo2Config, OPTConfig

from segkernel import _cli as cli
from segkernel.training.models import ModelArguments, adapters, load_causal_lm, load_reward_model, load_scoring_model
from segkernel.training.models.adapter_base import base_model_of
from segkernel.training.models.adapters import with_adapter
from segkernel.training.trainer.actor_critic import value_adapter_like
from tests.training.adapter_helpers import IDS, LORA_ALL, logits_of
from tests.training.trainer_helpers import write_files


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of `write_files`, and adapters of a language model and of a reward model, `lm_adapter` and `rm_adapter`."""
    directory = tmp_path_factory.mktemp("runs")
    files = write_files(directory)
    for name, method in (("lm_adapter", "dpo"), ("rm_adapter", "reward")):
        files[name] = str(directory / name)
        assert train(files, method, name, "--model", files["lm"], "--peft", "lora", "--lora_r", "2") == 0
    return files


def train(files: dict[str, str], method: str, output: str, *options: str) -> int:
    data = ["--preferences", files["preferences"], "--max_length=64"]
    if method == "pretrain":
        data = ["--texts", files["texts"], "--max_length=64"]
    if method == "distill" or "ppo" in method or "rft" in method:
        data = ["--prompts", files["preferences"], "--max_new_tokens=4", "--max_prompt_length=32"]
    data += ["--eval_fraction=0", "--use_cpu", "--disable_tqdm=True", "--max_steps=1", "--learning_rate=1e-2"]
    return cli.main(["train", method, *data, "--output_dir", str(Path(files["out"]).parent / output), *options])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "model", "options"),
    [
        ("dpo", "lm_adapter", []),
        ("aligndistil", "lm_adapter", ["--dpo_model", "lm_adapter", "--reverse_dpo_model", "lm"]),
        ("distill", "lm_adapter", ["--teacher", "lm_adapter", "--per_device_train_batch_size=4"]),
        ("rft", "lm_adapter", ["--reward_model", "rm_adapter", "--samples=2"]),
        ("ppo", "lm_adapter", ["--reward_model", "rm_adapter", "--rollout_epochs=1"]),
        ("asr-dpo", "lm", ["--reward_policy", "lm_adapter", "--delta=0.01"]),
    ],
)
def test_adapter_directories_stand_where_a_model_is_read(
    runs: dict[str, str], method: str, model: str, options: list[str]
) -> None:
    output = Path(runs["out"]).parent / method
    assert train(runs, method, method, "--model", runs[model], *(runs.get(option, option) for option in options)) == 0
    state = json.loads((output / "trainer_state.json").read_text(encoding="utf-8"))
    logs = {name: value for log in state["log_history"] for name, value in log.items()}
    if method == "dpo":
        assert logs["loss"] == pytest.approx(math.log(2), abs=1e-6)
    if method == "distill":
        assert logs["divergence"] == pytest.approx(0, abs=1e-6)  # teacher and policy start as the same adapter
    if method == "ppo":
        assert logs["rollout/kl"] == 0  # the reference is the adapter as it was loaded
    if model == "lm_adapter":
        assert base_model_of(output, "model") == runs["lm"]


def test_methods_on_files_train_a_new_adapter(runs: dict[str, str]) -> None:
    sources = {
        "segment-ppo": ["--reward_model", str(Path(runs["out"]).parent / "segment-reward")],
        "asr-rft": ["--reward_model", runs["rm"], "--samples=2", "--delta=0.01"],
    }
    for method in ("pretrain", "segment-reward", *sources):
        options = [*sources.get(method, []), "--model", runs["lm"], "--peft", "lora", "--target_modules", "q_proj"]
        assert train(runs, method, method, *options) == 0
        output = Path(runs["out"]).parent / method
        for folder in (output, *([output / "value"] if "ppo" in method else [])):
            saved = load_file(folder / "adapter_model.safetensors")
            assert any(".q_proj.lora_B." in name and tensor.any() for name, tensor in saved.items()), (method, folder)


def test_reward_model_continues_the_adapter_of_a_language_model(runs: dict[str, str], tokenizer: Any) -> None:
    policy = load_causal_lm(ModelArguments(model=runs["lm_adapter"]), tokenizer)
    model: Any = load_reward_model(ModelArguments(model=runs["lm_adapter"]), tokenizer)
    hidden, expected = (m.eval().get_base_model().model(input_ids=IDS).last_hidden_state for m in (model, policy))
    assert torch.equal(hidden, expected)
    assert {n.split(".")[-3] for n, p in model.named_parameters() if p.requires_grad} >= {"lora_A", "modules_to_save"}


def test_frozen_adapters_are_merged(runs: dict[str, str], tokenizer: Any) -> None:
    trained = load_reward_model(ModelArguments(model=runs["rm_adapter"]), tokenizer)
    merged = load_scoring_model(runs["rm_adapter"], tokenizer)
    assert type(merged).__name__ == "LlamaForTokenClassification"
    torch.testing.assert_close(logits_of(merged), logits_of(trained), rtol=1e-5, atol=1e-5)


def test_reward_adapter_of_a_sequence_classifier_is_read_at_every_token(
    runs: dict[str, str], tmp_path: Path, tokenizer: Any
) -> None:
    classifier = AutoModelForSequenceClassification.from_pretrained(runs["lm"], num_labels=1)
    classifier.config.pad_token_id = 0
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS", init_lora_weights=False)
    trained = get_peft_model(classifier, config)
    trained.save_pretrained(tmp_path)
    scores = logits_of(load_scoring_model(str(tmp_path), tokenizer))
    assert scores.shape == (2, 5, 1)
    torch.testing.assert_close(scores[:, -1], logits_of(trained), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make_config", [OPTConfig, Olmo2Config, GPT2Config])
def test_reward_adapter_on_any_architecture_loads_to_the_same_scores(
    tmp_path: Path, tokenizer: Any, make_config: Any
) -> None:
    config = make_config(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    model = load_reward_model(ModelArguments(model=str(tmp_path / "lm")), tokenizer)
    adapted = with_adapter(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[-2] for name in trained if "modules_to_save" in name} == {"default"}
    adapted.save_pretrained(tmp_path / "rm")
    loaded = load_reward_model(ModelArguments(model=str(tmp_path / "rm")), tokenizer)
    assert torch.equal(logits_of(loaded), logits_of(adapted))
    policy = with_adapter(load_causal_lm(ModelArguments(model=str(tmp_path / "lm")), tokenizer), LORA_ALL)
    assert logits_of(value_adapter_like(policy)).tolist() == [[[0.0]] * 5] * 2


def test_user_errors_with_adapters_are_one_line(
    runs: dict[str, str], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lm_adapter", "rm_adapter"):
        shutil.copytree(runs[name], tmp_path / name, ignore=shutil.ignore_patterns("checkpoint-*", "tokenizer*"))
    config = tmp_path / "lm_adapter" / "adapter_config.json"
    config.write_text(config.read_text().replace(runs["lm"], "./gone"))
    weights = tmp_path / "rm_adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    (tmp_path / "prompt.json").write_text('{"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4}')
    shutil.copytree(runs["lm_adapter"], tmp_path / "rank", ignore=shutil.ignore_patterns("checkpoint-*"))
    config = tmp_path / "rank" / "adapter_config.json"
    config.write_text(config.read_text().replace('"r": 2', '"r": 3'))
    lora, lm = ("--peft", "lora"), ("--model", runs["lm"])
    for method, options, message in (
        ("dpo", [*lora, "--model", runs["lm_adapter"]], "peft: expected no value, since --model"),
        ("dpo", lora, "model: expected the model under the adapter (--model DIR), got none"),
        ("dpo", [*lm, "--peft", str(tmp_path / "prompt.json")], "peft: expected a method without virtual tokens"),
        ("dpo", ["--model", str(tmp_path / "rank")], "size mismatch for"),
        ("dpo", [*lm, "--lora_r", "8"], "lora_r: expected no value without `--peft lora`, got 8"),
        ("dpo", [*lm, *lora, "--lora_dropout=0.1"], "lora_dropout: expected 0 with --disable_dropout, got 0.1"),
        ("dpo", [*lm, "--merge_adapter"], "merge_adapter: expected a model with an adapter, got one without"),
        ("dpo", [*lm, *lora, "--target_modules", "wq"], "target_modules: "),
        (
            "dpo",
            ["--model", runs["rm_adapter"]],
            "expected a language model, got the adapter of a reward",
        ),
        ("dpo", ["--model", str(tmp_path / "lm_adapter")], "lm_adapter': there is no directory './gone'"),
        ("reward", ["--model", str(tmp_path / "rm_adapter")], "model: the adapter in "),
        ("rft", [*lm, "--reward_model", runs["lm_adapter"]], "reward_model: expected a reward model, got the adapter"),
    ):
        assert train(runs, method, "refused", *options) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line
    resumed = (*lm, *lora, "--lora_r", "4", "--resume_from_checkpoint", "last")
    assert train(runs, "dpo", "lm_adapter", *resumed) == 2
    assert "had lora_r=2, this one has 4" in capsys.readouterr().err
    monkeypatch.setattr(adapters, "is_peft_available", lambda: False)
    assert train(runs, "dpo", "refused", *lm, *lora) == 2
    assert "not installed: pip install 'segkernel[peft]'" in capsys.readouterr().err
