"""Models by location and kind: reward models on causal LMs, sequence classifiers, wrappers, GGUF, errors."""

import copy
import logging
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from segkernel.training import DPOConfig, DPOTrainer, PPOConfig, PPOTrainer, RFTConfig, RFTTrainer
from segkernel.training.models import (
    ModelArguments,
    load_causal_lm,
    load_frozen_lm,
    load_reward_model,
    load_scoring_model,
    value_model_like,
)
from segkernel.training.models.causality import check_left_padding
from segkernel.training.models.forward import takes_position_ids
from segkernel.training.models.paths import _in_package, locate
from segkernel.training.models.scalar_head import body_of
from segkernel.training.trainer.actor_critic import ActorCritic
from segkernel.training.trainer.batches import model_logits
from tests.training.trainer_helpers import QUICK_PAIRS, assert_same_bits, pairs

# A tiny model of each kind: the config's class, and its sizes where they have other names.
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}
KINDS: dict[str, dict[str, Any]] = {
    "Llama": SIZES,
    "GPT2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "resid_pdrop": 0.0},
    "OPT": {**SIZES, "ffn_dim": 24, "word_embed_proj_dim": 16},
    "Gemma3Text": SIZES,
    "Olmo2": SIZES,
    "Granite": {**SIZES, "logits_scaling": 8.0},
    "Cohere": SIZES,
    "Mamba": {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4},
    "GPTJ": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "rotary_dim": 4},
    "Llama4Text": {**SIZES, "num_local_experts": 2},
    "FalconH1": {
        **SIZES,
        "ssm_multipliers": [0.5, 0.25, 0.5, 0.25, 0.5],
        "mamba_d_ssm": 16,
        "mamba_n_heads": 2,
        "mamba_d_head": 8,
        "mamba_d_state": 4,
        "mamba_n_groups": 1,
    },
    "Olmoe": {**SIZES, "num_experts": 4, "num_experts_per_tok": 2},
}


def tiny(kind: str, tokenizer: Any) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=1, **KINDS[kind]
    )
    return AutoModelForCausalLM.from_config(config).eval()


def save(model: Any, tokenizer: Any, directory: Path) -> str:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def batch(ids: Tensor, padding: int = 0) -> dict[str, Tensor]:
    """Batch of the rows of `ids` with so many pad tokens on the left."""
    mask = torch.ones_like(ids)
    ids, mask = (torch.nn.functional.pad(part, (padding, 0)) for part in (ids, mask))
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}


@pytest.mark.parametrize("kind", KINDS)
def test_reward_model_on_a_causal_lm_is_causal_and_saved_with_its_bits(
    kind: str, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = tiny(kind, tokenizer)
    path = save(policy, tokenizer, tmp_path / "lm")
    torch.manual_seed(1)
    with caplog.at_level(logging.WARNING):
        model = load_reward_model(ModelArguments(model=path), tokenizer).eval()
    assert [record.getMessage() for record in caplog.records if record.name.startswith("segkernel")] == [
        f"model: a new scalar head on the language model {path!r}"
    ]
    assert_same_bits(body_of(policy).state_dict(), body_of(model).state_dict())
    ids = torch.tensor([[5, 9, 7, 11, 6], [8, 6, 12, 10, 9]])
    other = torch.tensor([[5, 9, 7, 200, 201], [8, 6, 12, 202, 203]])
    with torch.no_grad():
        # Also where the body has buffers that are not saved (FalconH1).
        hidden = [body_of(m)(input_ids=ids).last_hidden_state for m in (policy, model)]
        torch.testing.assert_close(*hidden)
        scores = model_logits(model, batch(ids))
        assert scores.shape == (2, 5, 1)
        assert scores.std() > 1e-4
        later = model_logits(model, batch(other))
        torch.testing.assert_close(later[:, :3], scores[:, :3])
        assert not torch.allclose(later[:, 3:], scores[:, 3:])
        torch.testing.assert_close(model_logits(model, batch(ids, padding=3))[:, 3:], scores, rtol=1e-4, atol=1e-5)

    saved = save(model, tokenizer, tmp_path / "rm")
    for loaded in (
        load_scoring_model(saved, tokenizer),
        load_reward_model(ModelArguments(model=saved), tokenizer),
    ):
        assert type(loaded).__name__ == type(model).__name__
        assert_same_bits(model.state_dict(), loaded.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(model_logits(loaded.eval(), batch(ids)), scores)
    with pytest.raises(ValueError, match=r"model: expected a causal language model, got .*ForTokenClassification"):
        load_causal_lm(ModelArguments(model=saved), tokenizer)

    pair = ActorCritic(policy, value_model_like(policy))
    whole = {**batch(ids), "response_mask": torch.ones_like(ids, dtype=torch.bool)}
    with torch.no_grad():
        values = pair(**whole)[1]
        assert values.shape == (2, 5)
        assert (values == 0).all()
        for parameter in pair.value.parameters():
            parameter.add_(0.25)
    pair.save_pretrained(tmp_path / "pair")
    again = ActorCritic(tiny(kind, tokenizer), value_model_like(policy))
    again.load_pretrained(tmp_path / "pair")
    assert_same_bits(pair.state_dict(), again.state_dict())


@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_sequence_classifier_is_read_at_every_token(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    config = tiny(kind, tokenizer).config
    config.num_labels, config.pad_token_id = 1, 0
    torch.manual_seed(2)
    classifier: Any = AutoModelForSequenceClassification.from_config(config).eval()
    path = save(classifier, tokenizer, tmp_path / "classifier")
    model = load_scoring_model(path, tokenizer).eval()
    ids = torch.tensor([[5, 9, 7, 11, 6]])
    with torch.no_grad():
        scores = model_logits(model, batch(ids))[0, :, 0]
        prefixes = [classifier(input_ids=ids[:, :end]).logits[0, 0] for end in range(1, 6)]
    torch.testing.assert_close(scores, torch.stack(prefixes))
    # Trained further and saved, it is still a sequence classifier for other programs.
    load_reward_model(ModelArguments(model=path), tokenizer).save_pretrained(tmp_path / "again")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again")
    assert again.config.architectures == [type(classifier).__name__]
    assert_same_bits(classifier.state_dict(), again.state_dict())


def test_reward_model_with_several_labels_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    config = tiny("Llama", tokenizer).config
    config.num_labels = 3
    path = save(AutoModelForSequenceClassification.from_config(config), tokenizer, tmp_path / "classes")
    with pytest.raises(ValueError, match=r"reward_model: expected a reward model.*Classification with 3 labels"):
        load_scoring_model(path, tokenizer)


def test_bidirectional_model_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(tokenizer), **SIZES)
    path = save(AutoModelForCausalLM.from_config(config), tokenizer, tmp_path / "bert")
    with pytest.raises(ValueError, match=r"model: expected a causal model, .*got BertLMHeadModel"):
        load_causal_lm(ModelArguments(model=path), tokenizer)
    with pytest.raises(ValueError, match=r"model: expected a causal model, .*got BertForTokenClassification"):
        load_reward_model(ModelArguments(model=path), tokenizer)


def test_model_that_padding_at_the_left_changes_is_refused_where_there_is_some(tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.BartConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=24,
        max_position_embeddings=64,
    )
    bart = AutoModelForCausalLM.from_config(config)
    rows = [{"prompt_ids": [5, 6]}]
    message = "model: expected a model whose outputs do not change with padding at the left .* got BartForCausalLM"
    for config_class, trainer_class in ((PPOConfig, PPOTrainer), (RFTConfig, RFTTrainer)):
        with pytest.raises(ValueError, match=message):
            trainer_class(bart, config_class(str(tmp_path)), rows, None, tokenizer, reward_model=lambda batch: None)
    config = DPOConfig(str(tmp_path), **QUICK_PAIRS)
    assert DPOTrainer(bart, config, pairs(4), None, tokenizer).args.max_length == 64
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    with pytest.raises(ValueError, match=message):
        DPOTrainer(bart, config, pairs(4), None, left)
    for kind in ("Llama", "GPT2", "OPT", "Mamba"):
        check_left_padding(tiny(kind, tokenizer), "model")


def test_missing_weights_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    model = tiny("Llama", tokenizer)
    state = {name: value for name, value in model.state_dict().items() if "down_proj" not in name}
    model.save_pretrained(tmp_path / "lm", state_dict=state)
    tokenizer.save_pretrained(tmp_path / "lm")
    with pytest.raises(ValueError, match=r"teacher: expected the weights .* which lacks model\.layers\.0\.mlp\.down"):
        load_frozen_lm("teacher", str(tmp_path / "lm"), tokenizer)


def test_damaged_weights_name_their_file(tokenizer: Any, tmp_path: Path) -> None:
    path = save(tiny("Llama", tokenizer), tokenizer, tmp_path / "lm")
    weights = tmp_path / "lm" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"^model: the model in '[^\n]*model\.safetensors' cannot be read: [^\n]*$"):
        load_causal_lm(ModelArguments(model=path), tokenizer)


def test_position_ids_reach_the_model_through_wrappers(tokenizer: Any) -> None:
    # GPT-2 has absolute positions, so without position_ids left padding changes its logits.
    from peft import LoraConfig, get_peft_model

    plain = tiny("GPT2", tokenizer)
    ids = torch.tensor([[5, 9, 7, 11, 6]])
    with torch.no_grad():
        expected = plain.double()(input_ids=ids).logits
    plain.float()
    assert takes_position_ids(plain)
    wrapped = get_peft_model(tiny("GPT2", tokenizer), LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    replaced = tiny("GPT2", tokenizer)
    original = replaced.forward
    replaced.forward = lambda *args, **kwargs: original(*args, **kwargs)
    models = {
        "plain": plain,
        "PEFT": wrapped,
        "torch.compile": torch.compile(plain, backend="eager"),
        "compiled PEFT": torch.compile(wrapped, backend="eager"),
        "replaced forward": replaced,
        "module": torch.nn.DataParallel(plain),
    }
    for name, model in models.items():
        # The wrapper of torch.compile is read without tracing, which takes seconds.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            logits = model_logits(model.eval(), batch(ids, padding=3))[:, 3:]
        error = (logits - expected).abs().max()
        assert error < 1e-5, (name, error)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("./none", "model: there is no directory './none'"),
        ("/none/at/all", "model: there is no directory '/none/at/all'"),
        ("runs/rmm", "model: there is no directory 'runs/rmm'"),
        ("a b", "model: there is no directory 'a b'"),
        ("x/y.gguf", "model: there is no file 'x/y.gguf'"),
    ],
)
def test_local_path_that_is_not_there_is_refused_without_the_hub(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr("segkernel.training.models.paths.HfApi", None)
    with pytest.raises(FileNotFoundError) as error:
        locate(path, "model")
    assert str(error.value) == message


UNREACHABLE = (
    r"^model: there is no directory 'gpt2', no installed package of that name with a \.gguf file, and the Hugging Face "
    r"Hub is out of reach \(OSError\); give a directory, or a model that is in the hub's cache$"
)


def test_hub_name_without_a_network_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    requests = []

    class Unreachable:
        def model_info(self, name: str, timeout: float) -> None:
            requests.append((name, timeout))
            raise OSError("Name or service not known")

    monkeypatch.setattr("segkernel.training.models.paths.HfApi", Unreachable)
    start = time.monotonic()
    with pytest.raises(ConnectionError, match=UNREACHABLE):
        locate("gpt2", "model")
    assert requests == [("gpt2", 5.0)]
    assert time.monotonic() - start < 2


def test_hub_name_without_a_network_is_read_from_the_cache_after_one_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    requests = []

    class Unreachable:
        def model_info(self, name: str, timeout: float) -> None:
            requests.append(name)
            raise OSError("Name or service not known")

    def cached(name: str, local_files_only: bool) -> str:
        assert local_files_only
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("segkernel.training.models.paths.HfApi", Unreachable)
    monkeypatch.setattr("segkernel.training.models.paths.snapshot_download", cached)
    for _ in range(3):
        assert locate("owner/cached-model", "model") == (str(tmp_path / "snapshot"), {})
    assert requests == ["owner/cached-model"]


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder on `sys.path` with packages that fail when they are imported, two of them installed distributions."""
    files = {
        "tiny_lm_files/weights.gguf": "",
        "tiny_lm_files/__init__.py": "raise RuntimeError",
        "tiny_lm-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: tiny-lm\nVersion: 1.0\n",
        "tiny_lm-1.0.dist-info/RECORD": "tiny_lm_files/__init__.py,,\ntiny_lm_files/weights.gguf,,\nmissing.gguf,,\n",
        "two_lms/a.gguf": "",
        "two_lms/b.gguf": "",
        "two_lms/__init__.py": "raise RuntimeError",
        "hub_name/__init__.py": "raise RuntimeError",
        "hub_name-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: hub-name\nVersion: 1.0\n",
        "hub_name-1.0.dist-info/RECORD": "hub_name/__init__.py,,\n",
    }
    folder = tmp_path / "site-packages"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("segkernel.training.models.paths.HfApi", None)
    return folder


@pytest.mark.parametrize("name", ["tiny-lm", "tiny_lm", "Tiny-LM", "tiny_lm_files", "tiny-lm-files"])
def test_name_of_an_installed_package_is_its_gguf_file(
    name: str, site_packages: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _in_package.cache_clear()
    with caplog.at_level("INFO", logger="segkernel"):
        for _ in range(2):
            assert locate(name, "model") == (str(site_packages / "tiny_lm_files"), {"gguf_file": "weights.gguf"})
    file = site_packages / "tiny_lm_files" / "weights.gguf"
    assert caplog.messages == [f"model: {name} is the file {file} of the installed package"]


def test_package_with_two_gguf_files_is_refused(site_packages: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^model: expected one \.gguf file in the installed package 'two-lms', "
    ) as error:
        locate("two-lms", "model")
    files = [site_packages / "two_lms" / name for name in ("a.gguf", "b.gguf")]
    assert str(error.value).endswith(f", got '{files[0]}', '{files[1]}'")


@pytest.mark.parametrize("name", ["hub-name", "owner/tiny-lm"])
def test_other_names_than_those_of_packages_with_a_gguf_file_go_to_the_hub(
    name: str, site_packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []

    class Hub:
        def model_info(self, name: str, timeout: float) -> None:
            requests.append(name)

    monkeypatch.setattr("segkernel.training.models.paths.HfApi", Hub)
    assert locate(name, "model") == (name, {})
    assert requests == [name]


def test_directory_comes_before_an_installed_package(site_packages: Path, tmp_path: Path) -> None:
    (tmp_path / "tiny-lm").mkdir()
    assert locate("tiny-lm", "model") == ("tiny-lm", {})


def test_directory_without_a_model_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model: expected a model's directory, .* holds no config.json"):
        load_causal_lm(ModelArguments(model=str(tmp_path)), tokenizer)
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"model: expected a directory, a hub name or a \.gguf file, got the file"):
        locate(str(tmp_path / "model.bin"), "model")
