"""Models and tokenizers of the trainers: loaded from a path, or new and small."""

from segkernel.training.models.arguments import ModelArguments
from segkernel.training.models.loading import load_causal_lm, load_frozen_lm, load_reward_model, load_scoring_model
from segkernel.training.models.scalar_head import value_model_like
from segkernel.training.models.tokenizer import load_tokenizer, train_tokenizer
from segkernel.training.models.vocabulary import check_teacher, common_columns

__all__ = [
    "ModelArguments",
    "check_teacher",
    "common_columns",
    "load_causal_lm",
    "load_frozen_lm",
    "load_reward_model",
    "load_scoring_model",
    "load_tokenizer",
    "train_tokenizer",
    "value_model_like",
]
