"""GGUF files: dequantized weights, and tokenizers without tokens that the file lacks."""

import json
from typing import Any

import transformers
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = ["dequantizing", "forget_quantization", "with_tokens_of_the_file"]


def dequantizing() -> dict[str, Any]:
    """Keyword arguments of `from_pretrained` that dequantize weights, which older transformers do without them."""
    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def forget_quantization(model: Any) -> None:
    """Let a dequantized model be trained and saved as any other."""
    model.hf_quantizer = None
    model.is_quantized = False
    for owner, name in ((model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(owner, name):
            delattr(owner, name)


def with_tokens_of_the_file(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> PreTrainedTokenizerBase:
    """Tokenizer without added tokens beyond the vocabulary of the file.

    transformers adds `<|endoftext|>` to every byte-level tokenizer that lacks it, Llama 3's among them, and the model
    has no embedding for it.
    """
    backend: Any = tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    kept = [token for token in state["added_tokens"] if token["id"] < vocab_size]
    if len(kept) == len(state["added_tokens"]):
        return tokenizer
    dropped = {token["content"] for token in state["added_tokens"]} - {token["content"] for token in kept}
    special = {name: token for name, token in tokenizer.special_tokens_map.items() if token not in dropped}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps({**state, "added_tokens": kept})),
        chat_template=tokenizer.chat_template,
        clean_up_tokenization_spaces=False,
        padding_side=tokenizer.padding_side,
        **special,
    )
