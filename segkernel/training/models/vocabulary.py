"""Checks that a model and a tokenizer, or two models, share their tokens."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from segkernel.training.models.reading import read_tokenizer


def check_same_tokens(path: str, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if read_tokenizer(path, name).get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"{name}: expected the policy's tokenizer, got another one in {path!r}")


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    entries = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    if len(tokenizer) > entries:
        raise ValueError(
            f"tokenizer: expected at most {entries} tokens, the embeddings of {path!r}, got {len(tokenizer)}"
        )


def check_teacher(name: str, teacher: PreTrainedModel, model: PreTrainedModel) -> None:
    """Refuse a teacher that is trained itself, or whose logits are not over the policy's tokens."""
    columns, expected = logit_columns(name, teacher, model)
    if columns != expected:
        raise ValueError(f"{name}: expected logits over the policy's {expected} tokens, got {columns}")


def common_columns(
    name: str, teacher: PreTrainedModel, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
) -> int:
    """Number of leading columns that the logits of a teacher and of the policy share.

    Models of one family have the same tokens, but may be padded to different sizes.

    Raises:
        ValueError: the teacher is trained itself; or the sizes differ, and the common columns lack one of the
            tokenizer's tokens, or there is no tokenizer.
    """
    columns, expected = logit_columns(name, teacher, model)
    common = min(columns, expected)
    needed = expected if tokenizer is None else 1 + max(tokenizer.get_vocab().values())
    if columns != expected and common < needed:
        raise ValueError(f"{name}: expected logits over the policy's {needed} tokens, got {columns}")
    return common


def logit_columns(name: str, teacher: PreTrainedModel, model: PreTrainedModel) -> tuple[int, ...]:
    """Columns of the logits of a teacher and of the policy."""
    if teacher is model:
        raise ValueError(f"{name}: expected a frozen model of its own, got the model that is trained")
    return tuple(m.config.get_text_config().vocab_size for m in (teacher, model))
