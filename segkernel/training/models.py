"""Models and tokenizers of the trainers: loaded from a path, or new and small."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

__all__ = [
    "ModelArguments",
    "load_causal_lm",
    "load_frozen_lm",
    "load_reward_model",
    "load_scoring_model",
    "load_tokenizer",
    "train_tokenizer",
]

EOS, PAD = "<|end|>", "<|pad|>"


@dataclass
class ModelArguments:
    """Model to start from: one by path, or a new small Llama of these sizes."""

    _argument_group_name = "model"

    model: str | None = field(
        default=None,
        metadata={
            "help": "Directory (or hub name) of the language model to start from; without it, a new small Llama.",
            "metavar": "DIR",
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Directory (or hub name) of the tokenizer; default: the model's, or one trained on the data.",
            "metavar": "DIR",
        },
    )
    dtype: str = field(
        default="float32",
        metadata={"help": "dtype of the weights of --model: `float32`, `bfloat16`, `float16`, or `auto`: as saved."},
    )
    vocab_size: int = field(
        default=1024, metadata={"help": "Tokens of a tokenizer trained on the data (byte-level BPE)."}
    )
    hidden_size: int = field(default=128, metadata={"help": "New model: width."})
    intermediate_size: int = field(default=352, metadata={"help": "New model: width of the feed-forward layers."})
    num_hidden_layers: int = field(default=2, metadata={"help": "New model: number of layers."})
    num_attention_heads: int = field(default=4, metadata={"help": "New model: number of attention heads."})
    max_position_embeddings: int = field(default=2048, metadata={"help": "New model: longest sequence, in tokens."})


def load_tokenizer(arguments: ModelArguments, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """Tokenizer by path, else that of the model, else a new one trained on `texts`."""
    path = arguments.tokenizer or arguments.model
    if path is None:
        return train_tokenizer(texts, vocab_size=arguments.vocab_size)
    _check_directory(path, "tokenizer" if arguments.tokenizer else "model")
    return AutoTokenizer.from_pretrained(path)


def train_tokenizer(texts: Iterable[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with one token per digit.

    Raises:
        ValueError: `vocab_size` cannot hold the 256 bytes and the two special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < 258:
        raise ValueError(f"vocab_size: expected at least 258 (256 bytes and 2 special tokens), got {vocab_size}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )


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
    _check_vocabulary(model, tokenizer, arguments.model)
    return model


def load_reward_model(arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Reward model: a causal LM's body with a scalar head, read at every token: `logits` `[B, T, 1]`.

    `arguments.model` may be a causal LM, whose head is replaced by a new one, or a saved reward model.
    """
    if arguments.model is None:
        return LlamaForTokenClassification(_llama_config(arguments, tokenizer, num_labels=1, classifier_dropout=0.0))
    _check_directory(arguments.model, "model")
    config = AutoConfig.from_pretrained(arguments.model, num_labels=1)
    config.classifier_dropout = 0.0
    model: PreTrainedModel = AutoModelForTokenClassification.from_pretrained(
        arguments.model, config=config, dtype=_dtype(arguments.dtype)
    )
    _check_vocabulary(model, tokenizer, arguments.model)
    return model


def load_frozen_lm(name: str, path: str, tokenizer: PreTrainedTokenizerBase, dtype: str = "float32") -> PreTrainedModel:
    """Frozen causal LM (reference, teacher), refused when its tokens are not `tokenizer`'s.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it holds a classifier, or a model of another vocabulary. Errors name the option `name`.
    """
    _check_causal_lm(path, name)
    _check_same_tokens(path, tokenizer, name)
    return AutoModelForCausalLM.from_pretrained(path, dtype=_dtype(dtype))


def load_scoring_model(path: str, tokenizer: PreTrainedTokenizerBase, dtype: str = "float32") -> PreTrainedModel:
    """Frozen reward model, refused when its tokens are not `tokenizer`'s.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it holds no reward model, or one of another vocabulary.
    """
    _check_directory(path, "reward_model")
    config = AutoConfig.from_pretrained(path)
    architecture = _architecture(config)
    if not architecture.endswith("ForTokenClassification") or config.num_labels != 1:
        raise ValueError(
            f"reward_model: expected a model with one score per token (`segkernel train reward`), got "
            f"{architecture or 'an unnamed architecture'} in {path!r}"
        )
    _check_same_tokens(path, tokenizer, "reward_model")
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


def _dtype(name: str) -> torch.dtype | str:
    if name == "auto":
        return name
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"dtype: expected `auto`, `float32`, `bfloat16` or `float16`, got {name!r}")
    return dtype


def _check_directory(path: str, name: str) -> None:
    """Refuse a missing local path, which transformers would look up on the hub."""
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    if not Path(path).is_dir() and looks_local:
        raise FileNotFoundError(f"{name}: there is no directory {path!r}")


def _architecture(config: PretrainedConfig) -> str:
    return (config.architectures or [""])[0]


def _check_causal_lm(path: str, name: str) -> None:
    _check_directory(path, name)
    architecture = _architecture(AutoConfig.from_pretrained(path))
    if architecture.endswith("Classification"):
        # transformers would load it with a new, random language-model head.
        raise ValueError(f"{name}: expected a causal language model, got {architecture} in {path!r}")


def _check_same_tokens(path: str, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if AutoTokenizer.from_pretrained(path).get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"{name}: expected the policy's tokenizer, got another one in {path!r}")


def _check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    entries = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    if len(tokenizer) > entries:
        raise ValueError(
            f"tokenizer: expected at most {entries} tokens, the embeddings of {path!r}, got {len(tokenizer)}"
        )


def check_teacher(name: str, teacher: PreTrainedModel, model: PreTrainedModel) -> None:
    """Refuse a teacher that is trained itself, or whose logits are not over the policy's tokens."""
    if teacher is model:
        raise ValueError(f"{name}: expected a frozen model of its own, got the model that is trained")
    entries, expected = (m.config.get_text_config().vocab_size for m in (teacher, model))
    if entries != expected:
        raise ValueError(f"{name}: expected logits over the policy's {expected} tokens, got {entries}")
