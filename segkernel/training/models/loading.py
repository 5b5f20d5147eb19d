"""Models of the trainers: loaded from a location, or new and small."""

import logging
from pathlib import Path
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

from segkernel.training.models.adapter_base import adapter_task, base_model_of, find_adapter
from segkernel.training.models.adapter_files import load_adapter
from segkernel.training.models.adapters import with_adapter_like
from segkernel.training.models.arguments import ModelArguments
from segkernel.training.models.causality import check_causal
from segkernel.training.models.reading import read_config, read_model
from segkernel.training.models.scalar_head import scalar_head_class, scalar_head_config, sequence_classifier_class
from segkernel.training.models.vocabulary import check_same_tokens, check_vocabulary

__all__ = ["load_causal_lm", "load_frozen_lm", "load_reward_model", "load_scoring_model"]

logger = logging.getLogger(__name__)


def load_causal_lm(arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Causal language model at `arguments.model`, or a new small Llama for `tokenizer`'s vocabulary.

    An adapter gives its base model with the adapter, to be trained (`peft.PeftModel`).

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: it is a classifier, or has fewer embeddings than the tokenizer has tokens.
    """
    if arguments.model is None:
        return LlamaForCausalLM(_llama_config(arguments, tokenizer))
    model = _read_causal_lm(arguments.model, "model", arguments.dtype, trainable=True)
    check_vocabulary(model, tokenizer, arguments.model)
    return model


def load_frozen_lm(
    name: str, path: str, tokenizer: PreTrainedTokenizerBase, dtype: str = "float32", *, merge_adapter: bool = True
) -> PreTrainedModel:
    """Frozen causal LM (reference, teacher), refused when its tokens are not `tokenizer`'s.

    An adapter is merged into its base model, unless that is to share its weights with another model.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: it is a classifier, or a model of another vocabulary. Errors name the option `name`.
    """
    model = _read_causal_lm(path, name, dtype, trainable=not merge_adapter)
    check_same_tokens(path, tokenizer, name)
    return model.requires_grad_(False)


def load_reward_model(arguments: ModelArguments, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Reward model to train, read at every token: `logits` `[B, T, 1]`.

    `arguments.model` may be a causal LM, whose head over the vocabulary is replaced by a new one with one output, or a
    reward model as `load_scoring_model` reads it; or an adapter of either, which gives a `peft.PeftModel`.
    """
    if arguments.model is None:
        return LlamaForTokenClassification(_llama_config(arguments, tokenizer, num_labels=1, classifier_dropout=0.0))
    if adapter := find_adapter(arguments.model, "model"):
        model = _read_score_adapter(adapter, arguments)
        check_vocabulary(model, tokenizer, arguments.model)
        return model
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
    if adapter := find_adapter(path, "reward_model"):
        task = adapter_task(adapter, "reward_model")
        if task == "CAUSAL_LM":
            raise ValueError(f"reward_model: expected a reward model, got the adapter of a language model in {path!r}")
        check_same_tokens(path, tokenizer, "reward_model")
        return load_adapter(adapter, "reward_model", lambda base, option: _read_score_base(base, option, task, dtype))
    config = read_config(path, "reward_model")
    check_same_tokens(path, tokenizer, "reward_model")
    return _read_scores(path, "reward_model", config, dtype)


def _read_causal_lm(path: str, option: str, dtype: str, *, trainable: bool = False) -> PreTrainedModel:
    """Causal LM; an adapter is kept apart if it is to be trained, and otherwise merged into its base model."""
    if adapter := find_adapter(path, option):
        if adapter_task(adapter, option) != "CAUSAL_LM":
            raise ValueError(f"{option}: expected a language model, got the adapter of a reward model in {path!r}")
        return load_adapter(adapter, option, lambda base, name: _read_causal_lm(base, name, dtype), trainable=trainable)
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


def _read_score_adapter(adapter: Path, arguments: ModelArguments) -> PreTrainedModel:
    """Reward model with a trainable adapter; that of a language model continues under a new scalar head."""
    task, dtype = adapter_task(adapter, "model"), arguments.dtype
    if task != "CAUSAL_LM":
        return load_adapter(
            adapter, "model", lambda base, option: _read_score_base(base, option, task, dtype), trainable=True
        )
    policy = _read_causal_lm(str(adapter), "model", dtype, trainable=True)
    logger.warning("model: a new scalar head on the language model %r", str(adapter))
    return with_adapter_like(policy, _read_score_base(base_model_of(adapter, "model"), "model", task, dtype))


def _read_score_base(path: str, option: str, task: str, dtype: str) -> PreTrainedModel:
    """Model under an adapter with a scalar head, whose weights are saved with the adapter."""
    config = read_config(path, option)
    if _architecture(config).endswith("Classification"):
        return _read_scores(path, option, config, dtype)
    config = scalar_head_config(config)
    head = sequence_classifier_class if task == "SEQ_CLS" else scalar_head_class
    return read_model(head(config), path, option, dtype=dtype, config=config, head_follows=True)


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
