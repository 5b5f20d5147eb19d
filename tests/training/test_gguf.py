"""GGUF files as models: weights, tokenizer, chat template, and the model that is saved."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from segkernel.training.models import ModelArguments, load_causal_lm, load_reward_model, load_tokenizer
from tests.training.trainer_helpers import assert_same_bits

TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def rope_order(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection as llama.cpp has them: the halves of each head interleaved."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def write_gguf(path: Path, model: Any, tokenizer: Any, kind: gguf.GGMLQuantizationType) -> dict[str, np.ndarray]:
    """Write a Llama as a GGUF file; returns the values of its matrices after the quantization, by name."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(len(tokenizer))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokenizer.convert_ids_to_tokens(range(len(tokenizer))))
    special = gguf.TokenType.CONTROL
    writer.add_token_types([special if i in tokenizer.all_special_ids else gguf.TokenType.NORMAL for i in range(280)])
    writer.add_token_merges([" ".join(merge) for merge in merges_of(tokenizer)])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(TEMPLATE)
    values = {}
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        stored = array
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            stored = rope_order(array, config.num_attention_heads)
        target = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}.get(name)
        if name == "lm_head.weight":
            target = "output.weight"
        if target is None:
            _, _, layer, rest = name.split(".", 3)
            target = f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"
        if array.ndim == 2:
            data = gguf.quants.quantize(stored, kind)
            writer.add_tensor(target, data, raw_dtype=kind)
            values[name] = gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind)
        else:
            writer.add_tensor(target, stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def merges_of(tokenizer: Any) -> list[tuple[str, str]]:
    import json

    return [tuple(merge) for merge in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_gguf_file_is_a_model_with_its_tokenizer(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=280,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=96,
        rms_norm_eps=1e-5,
    )
    source = LlamaForCausalLM(config).eval()
    path = tmp_path / "tiny.gguf"
    values = write_gguf(path, source, tokenizer, getattr(gguf.GGMLQuantizationType, kind))
    arguments = ModelArguments(model=str(path))

    read = load_tokenizer(arguments, ())
    text = "say blue 東 🙂:"
    assert read.decode(read(text)["input_ids"]) == text
    assert (read.eos_token_id, read.pad_token_id, len(read)) == (1, 0, 280)
    assert read.get_vocab() == tokenizer.get_vocab()
    assert read.apply_chat_template([{"role": "user", "content": "red"}], tokenize=False) == "<|user|>red"

    model = load_causal_lm(arguments, read).eval()
    assert model.config.max_position_embeddings == 96
    assert model.generation_config.eos_token_id == 1
    expected = {name: torch.from_numpy(value) for name, value in values.items()}
    for name, value in source.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], expected.get(name, value), rtol=0, atol=0, msg=name)
    source.load_state_dict({**source.state_dict(), **expected})
    ids = torch.tensor([[5, 9, 7, 11, 6]])
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits, source(input_ids=ids).logits)

    # Dequantized weights are trained and saved as any others.
    model(input_ids=ids).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert_same_bits(model.state_dict(), again.state_dict())
    assert not hasattr(again.config, "quantization_config")

    reward = load_reward_model(arguments, read)
    assert_same_bits(model.model.state_dict(), reward.base_model.state_dict())


def test_gguf_file_that_cannot_be_read_is_refused(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(ValueError, match=r"^model: the config in '[^\n]*damaged\.gguf' cannot be read: [^\n]*$"):
        load_causal_lm(ModelArguments(model=str(path)), tokenizer)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"^model: a \.gguf file needs .* pip install 'segkernel\[gguf\]'$"):
        load_causal_lm(ModelArguments(model=str(path)), tokenizer)
