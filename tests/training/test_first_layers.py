"""Reward models on the first layers of a language model."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from segkernel.training import RewardConfig, RewardTrainer
from segkernel.training.models import ModelArguments, load_reward_model, load_scoring_model
from segkernel.training.models.first_layers import keep_first_layers
from segkernel.training.models.scalar_head import body_of
from segkernel.training.trainer.batches import model_logits
from tests.training.test_models import SIZES as ONE_LAYER
from tests.training.test_models import batch, save
from tests.training.trainer_helpers import QUICK_PAIRS, pairs

SIZES = {**ONE_LAYER, "num_hidden_layers": 3}
KINDS: dict[str, dict[str, Any]] = {
    "Llama": SIZES,
    "Mistral": SIZES,
    "GPT2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64},
    "OPT": {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16},
    "Gemma2": SIZES,
    "GPTNeoX": SIZES,
    "Mamba": {"hidden_size": 16, "num_hidden_layers": 3, "state_size": 4},
}
IDS = torch.tensor([[5, 9, 7, 11, 6], [8, 6, 12, 10, 9]])


def reward_model(kind: str, tokenizer: Any, directory: Path) -> Any:
    """Reward model of three layers with random weights, those of its last norm included."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=1, **KINDS[kind]
    )
    path = save(AutoModelForCausalLM.from_config(config), tokenizer, directory / "lm")
    model = load_reward_model(ModelArguments(model=path), tokenizer).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.rand_like(weight))
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_head_reads_the_normalized_output_of_the_first_layers(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    model = reward_model(kind, tokenizer, tmp_path)
    with torch.no_grad():
        outputs = body_of(model)(IDS, output_hidden_states=True).hidden_states
    second = outputs[1 if kind == "Mamba" else 2]  # those of Mamba do not begin with the embeddings
    centered = second - second.mean(-1, keepdim=True) if kind in ("GPT2", "OPT", "GPTNeoX") else second
    normal = centered * (centered.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    keep_first_layers(model, 2)
    head = next(module for module in model.modules() if getattr(module, "out_features", None) == 1)
    with torch.no_grad():
        scores = model_logits(model, batch(IDS))
        torch.testing.assert_close(scores, head(normal), atol=2e-4, rtol=1e-3)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert {name.rsplit(".", 1)[0].rsplit(".", 1)[-1] for name in trained} <= {
        *("score", "classifier", "norm", "ln_f", "final_layer_norm", "norm_f")
    }
    assert not any("layers." in name or ".h." in name or "embed" in name for name in trained)
    saved = save(model, tokenizer, tmp_path / "rm")
    loaded = load_scoring_model(saved, tokenizer)
    assert loaded.config.num_hidden_layers == 2
    with torch.no_grad():
        torch.testing.assert_close(model_logits(loaded.eval(), batch(IDS)), scores)


def test_norm_of_a_model_that_keeps_all_layers_is_not_reset(tokenizer: Any, tmp_path: Path) -> None:
    model = reward_model("Llama", tokenizer, tmp_path)
    with torch.no_grad():
        before = model_logits(model, batch(IDS))
        keep_first_layers(model, 3)
        assert torch.equal(model_logits(model, batch(IDS)), before)
    assert not any(weight.requires_grad for weight in model.model.layers.parameters())


def test_trainer_trains_the_head_on_frozen_layers(tokenizer: Any, tmp_path: Path) -> None:
    model = reward_model("Llama", tokenizer, tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = {**QUICK_PAIRS, "learning_rate": 0.05}
    trainer = RewardTrainer(
        model, RewardConfig(str(tmp_path), score="sum", layers=1, **options), pairs(8), None, tokenizer
    )
    trainer.train()
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"model.norm.weight", "score.weight", "score.bias"}
    assert len(trainer.model.model.layers) == 1


@pytest.mark.parametrize("layers", [0, -1, 1.5])
def test_number_of_layers_is_checked(layers: Any, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=r"layers: expected (>= 1|an integer), got"):
        RewardConfig(str(tmp_path), layers=layers, **QUICK_PAIRS)


def test_layers_that_the_model_does_not_have(tokenizer: Any, tmp_path: Path) -> None:
    model = reward_model("Llama", tokenizer, tmp_path)
    with pytest.raises(ValueError, match="layers: expected from 1 to 3, the layers of the model, got 4"):
        keep_first_layers(model, 4)
    assert len(model.model.layers) == 3
    assert all(weight.requires_grad for weight in model.parameters())


def test_adapters_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj"])
    model = reward_model("Llama", tokenizer, tmp_path)
    args = RewardConfig(str(tmp_path), layers=1, **QUICK_PAIRS)
    with pytest.raises(ValueError, match="layers: expected no adapter with it"):
        RewardTrainer(model, args, pairs(4), None, tokenizer, peft_config=config)
    with pytest.raises(ValueError, match="layers: expected a model without an adapter"):
        keep_first_layers(peft.get_peft_model(model, config), 1)


def test_models_of_another_build_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    model = reward_model("Llama", tokenizer, tmp_path)
    model.model.norm_f = torch.nn.Identity()
    with pytest.raises(ValueError, match="layers: expected one norm after the layers, got 2 in LlamaModel"):
        keep_first_layers(model, 1)
    model.model.more = torch.nn.ModuleList(torch.nn.Identity() for _ in range(3))
    with pytest.raises(ValueError, match="layers: expected a model with one list of 3 layers, got LlamaModel"):
        keep_first_layers(model, 1)
