"""Models of the trainers: loaded from a path, or new and small."""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from segkernel.training.models.arguments import ModelArguments
from segkernel.training.models.paths import check_directory
from segkernel.training.models.vocabulary import check_same_tokens, check_vocabulary


def load_causal_lm(arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Causal language model at `arguments.model`, or a new small Llama for `tokenizer`'s vocabulary.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it holds a classifier, or a model with fewer embeddings than the tokenizer has tokens.
    """
    if arguments.model is None:
        return LlamaForCausalLM(_llama_config(arguments, tokenizer))
    _check_causal_lm(arguments.model, "model")
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=_dtype(arguments.dtype))
    check_vocabulary(model, tokenizer, arguments.model)
    return model


def load_reward_model(arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Reward model: a causal LM's body with a scalar head, read at every token: `logits` `[B, T, 1]`.

    `arguments.model` may be a causal LM, whose head is replaced by a new one, or a saved reward model.
    """
    if arguments.model is None:
        return LlamaForTokenClassification(_llama_config(arguments, tokenizer, num_labels=1, classifier_dropout=0.0))
    check_directory(arguments.model, "model")
    config = AutoConfig.from_pretrained(arguments.model, num_labels=1)
    config.classifier_dropout = 0.0
    model: PreTrainedModel = AutoModelForTokenClassification.from_pretrained(
        arguments.model, config=config, dtype=_dtype(arguments.dtype)
    )
    check_vocabulary(model, tokenizer, arguments.model)
    return model


def load_frozen_lm(name: str, path: str, tokenizer: PreTrainedTokenizerBase, dtype: str = "float32") -> PreTrainedModel:
    """Frozen causal LM (reference, teacher), refused when its tokens are not `tokenizer`'s.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it holds a classifier, or a model of another vocabulary. Errors name the option `name`.
    """
    _check_causal_lm(path, name)
    check_same_tokens(path, tokenizer, name)
    return AutoModelForCausalLM.from_pretrained(path, dtype=_dtype(dtype))


def load_scoring_model(path: str, tokenizer: PreTrainedTokenizerBase, dtype: str = "float32") -> PreTrainedModel:
    """Frozen reward model, refused when its tokens are not `tokenizer`'s.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it holds no reward model, or one of another vocabulary.
    """
    check_directory(path, "reward_model")
    config = AutoConfig.from_pretrained(path)
    architecture = _architecture(config)
    if not architecture.endswith("ForTokenClassification") or config.num_labels != 1:
        raise ValueError(
            f"reward_model: expected a model with one score per token (`segkernel train reward`), got "
            f"{architecture or 'an unnamed architecture'} in {path!r}"
        )
    check_same_tokens(path, tokenizer, "reward_model")
    model: PreTrainedModel = AutoModelForTokenClassification.from_pretrained(path, dtype=_dtype(dtype))
    return model


def _llama_config(arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase, **options: Any) -> LlamaConfig:
    if arguments.hidden_size % arguments.num_attention_heads:
        raise ValueError(
            f"hidden_size: expected a multiple of num_attention_heads={arguments.num_attention_heads}, "
            f"got {arguments.hidden_size}"
        )
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=arguments.hidden_size,
        intermediate_size=arguments.intermediate_size,
        num_hidden_layers=arguments.num_hidden_layers,
        num_attention_heads=arguments.num_attention_heads,
        num_key_value_heads=arguments.num_attention_heads,
        max_position_embeddings=arguments.max_position_embeddings,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **options,
    )


def _architecture(config: PretrainedConfig) -> str:
    return (config.architectures or [""])[0]


def _check_causal_lm(path: str, name: str) -> None:
    check_directory(path, name)
    architecture = _architecture(AutoConfig.from_pretrained(path))
    if architecture.endswith("Classification"):
        # transformers would load it with a new, random language-model head.
        raise ValueError(f"{name}: expected a causal language model, got {architecture} in {path!r}")


def _dtype(name: str) -> torch.dtype | str:
    if name == "auto":
        return name
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype: expected `auto`, `float32`, `bfloat16` or `float16`, got {name!r}")
    return dtype
