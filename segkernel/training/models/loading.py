"""Models of the trainers: loaded from a location, or new and small."""

from typing import Any

from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForTokenClassification,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from segkernel.training.models.arguments import ModelArguments
from segkernel.training.models.causality import check_causal
from segkernel.training.models.reading import read_config, read_model
from segkernel.training.models.scalar_head import scalar_head_class, scalar_head_config, sequence_classifier_class
from segkernel.training.models.vocabulary import check_same_tokens, check_vocabulary

__all__ = ["load_causal_lm", "load_frozen_lm", "load_reward_model", "load_scoring_model"]


def load_causal_lm(arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Causal language model at `arguments.model`, or a new small Llama for `tokenizer`'s vocabulary.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: it is a classifier, or has fewer embeddings than the tokenizer has tokens.
    """
    if arguments.model is None:
        return LlamaForCausalLM(_llama_config(arguments, tokenizer))
    model = _read_causal_lm(arguments.model, "model", arguments.dtype)
    check_vocabulary(model, tokenizer, arguments.model)
    return model


def load_frozen_lm(name: str, path: str, tokenizer: PreTrainedTokenizerBase, dtype: str = "float32") -> PreTrainedModel:
    """Frozen causal LM (reference, teacher), refused when its tokens are not `tokenizer`'s.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: it is a classifier, or a model of another vocabulary. Errors name the option `name`.
    """
    model = _read_causal_lm(path, name, dtype)
    check_same_tokens(path, tokenizer, name)
    return model


def load_reward_model(arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Reward model to train, read at every token: `logits` `[B, T, 1]`.

    `arguments.model` may be a causal LM, whose head over the vocabulary is replaced by a new one with one output, or a
    reward model as `load_scoring_model` reads it.
    """
    if arguments.model is None:
        return LlamaForTokenClassification(_llama_config(arguments, tokenizer, num_labels=1, classifier_dropout=0.0))
    config = read_config(arguments.model, "model")
    if _architecture(config).endswith("Classification"):
        model = _read_scores(arguments.model, "model", config, arguments.dtype)
    else:
        config = scalar_head_config(config)
        model = read_model(scalar_head_class(config), arguments.model, "model", dtype=arguments.dtype, config=config)
        check_causal(model, "model")
    check_vocabulary(model, tokenizer, arguments.model)
    return model


def load_scoring_model(path: str, tokenizer: PreTrainedTokenizerBase, dtype: str = "float32") -> PreTrainedModel:
    """Frozen reward model with one score per token, refused when its tokens are not `tokenizer`'s.

    A token classifier with one label is read as it is. The head of a sequence classifier with one label, which gives
    the score of the last token, is applied to every token.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: it is no reward model, or one of another vocabulary.
    """
    config = read_config(path, "reward_model")
    check_same_tokens(path, tokenizer, "reward_model")
    return _read_scores(path, "reward_model", config, dtype)


def _read_causal_lm(path: str, option: str, dtype: str) -> PreTrainedModel:
    architecture = _architecture(read_config(path, option))
    if architecture.endswith("Classification"):
        # transformers would load it with a new, random language-model head.
        raise ValueError(f"{option}: expected a causal language model, got {architecture} in {path!r}")
    model = read_model(AutoModelForCausalLM, path, option, dtype=dtype)
    check_causal(model, option)
    return model


def _read_scores(path: str, option: str, config: PretrainedConfig, dtype: str) -> PreTrainedModel:
    architecture = _architecture(config)
    makers = {"ForTokenClassification": scalar_head_class, "ForSequenceClassification": sequence_classifier_class}
    maker = next((makers[suffix] for suffix in makers if architecture.endswith(suffix)), None)
    if maker is None or config.num_labels != 1:
        labels = f" with {config.num_labels} labels" if maker else ""
        raise ValueError(
            f"{option}: expected a reward model, with one score per token (`segkernel train reward`) or per sequence, "
            f"got {architecture or 'an unnamed architecture'}{labels} in {path!r}"
        )
    config.classifier_dropout = 0.0
    model = read_model(maker(config), path, option, dtype=dtype, config=config)
    check_causal(model, option)
    return model


def _architecture(config: PretrainedConfig) -> str:
    return (config.architectures or [""])[0]


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
