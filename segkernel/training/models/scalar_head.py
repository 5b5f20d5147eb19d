"""Models with one output per token: a causal language model's body with a scalar head.

transformers has token-classification classes for some architectures only. For the others a class is derived from the
causal one: its head over the vocabulary gives way to `score`, a linear layer with one output. Class name and files are
those that transformers would give the missing class (`OPTForTokenClassification`, `score.weight`).
"""

import copy
import re
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import TokenClassifierOutput

from segkernel.training.models.forward import takes_position_ids, without_cache

__all__ = ["scalar_head_class", "scalar_head_config", "sequence_classifier_class", "value_model_like"]

CAUSAL_SUFFIX = re.compile(r"(For(CausalLM|ConditionalGeneration)|(LM|DoubleLM)Head(Model)?|ModelWithLMHead)$")


class TokenScores:
    """`forward` that applies the linear layer `score` to every hidden state of the body."""

    score: nn.Module

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: the modules are those of transformers.

        In custom code, submodules without parameters of their own are not initialized after loading, which would leave
        buffers that are not saved (the multipliers of Falcon-H1) at whatever the memory held.
        """
        return False

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **options: Any,
    ) -> TokenClassifierOutput:
        """Scores of every prefix: `logits` `[B, T, 1]` of token ids `[B, T]`."""
        body = body_of(self)
        if position_ids is not None and takes_position_ids(body):
            options["position_ids"] = position_ids
        # The wrappers of peft pass arguments that were not given, such as `labels`, as None.
        options = {name: value for name, value in options.items() if value is not None}
        options = {**without_cache(body), **options}
        outputs = body(input_ids=input_ids, attention_mask=attention_mask, **options)
        return TokenClassifierOutput(logits=self.score(outputs.last_hidden_state))


class ScalarHead(TokenScores):
    """Causal language model whose head over the vocabulary is replaced by `score`."""

    def __init__(self, config: PretrainedConfig) -> None:
        model: Any = self
        super().__init__(config)  # type: ignore[call-arg]  # of the causal class
        head = super().get_output_embeddings()  # type: ignore[misc]
        if head is None or body_of(model) is self:
            raise ValueError(f"model: expected a body with a head over the vocabulary, got {config.model_type!r}")
        name = next(name for name, module in model.named_modules() if module is head)
        parent, _, attribute = name.rpartition(".")
        delattr(model.get_submodule(parent), attribute)
        self.num_labels = 1
        self.score = nn.Linear(head.weight.shape[1], 1)
        model.post_init()

    def get_output_embeddings(self) -> None:
        """None: there is no head over the vocabulary, and nothing to tie to the input embeddings."""

    def set_output_embeddings(self, embeddings: nn.Module) -> None:
        raise NotImplementedError("a model with a scalar head has no output embeddings")


def body_of(model: Any) -> Any:
    """Model without its head: `base_model`, or `model` where the prefix of the class is another one, as for Llama 4."""
    body = model.base_model
    return getattr(model, "model", model) if body is model else body


def scalar_head_config(config: PretrainedConfig) -> PretrainedConfig:
    """Copy of a causal language model's config, for one output per token and no dropout before it."""
    config = copy.deepcopy(config)
    config.num_labels = 1
    config.classifier_dropout = 0.0
    return config


def scalar_head_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Class with one output per token for an architecture: that of transformers, or one derived from its causal class.

    Raises:
        ValueError: transformers has no causal language model of this kind.
    """
    if type(config) in MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING:
        found: Any = MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING[type(config)]
        return found  # type: ignore[no-any-return]
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"model: expected a causal language model, got one of the type {config.model_type!r}")
    return _derived_from_causal(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])


def sequence_classifier_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    """Sequence-classification class of an architecture, with its head `score` applied to every token.

    Checkpoints are those of the original class. Its own `forward` gives only the score of the last token.

    Raises:
        ValueError: transformers has no such class.
    """
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ValueError(f"reward_model: expected a sequence classifier of transformers, got {config.model_type!r}")
    return _read_at_every_token(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)])


@cache
def _derived_from_causal(causal: type[PreTrainedModel]) -> type[PreTrainedModel]:
    name = CAUSAL_SUFFIX.sub("", causal.__name__) + "ForTokenClassification"
    return type(name, (ScalarHead, causal), {"__module__": __name__, "_tied_weights_keys": None})


@cache
def _read_at_every_token(classifier: type[PreTrainedModel]) -> type[PreTrainedModel]:
    return type(classifier.__name__, (TokenScores, classifier), {"__module__": __name__})


def value_model_like(policy: PreTrainedModel) -> PreTrainedModel:
    """Value model with a copy of the policy's body and a new head whose output is 0."""
    config = scalar_head_config(policy.config)
    value: Any = scalar_head_class(config)._from_config(config)
    body_of(value).load_state_dict(body_of(policy).state_dict())
    body = set(body_of(value).parameters())
    with torch.no_grad():
        for parameter in value.parameters():
            if parameter not in body:  # the head, whose name depends on the architecture
                parameter.zero_()
    model: PreTrainedModel = value.to(device=policy.device, dtype=policy.dtype)
    return model
