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
    if teacher is model:
        raise ValueError(f"{name}: expected a frozen model of its own, got the model that is trained")
    entries, expected = (m.config.get_text_config().vocab_size for m in (teacher, model))
    if entries != expected:
        raise ValueError(f"{name}: expected logits over the policy's {expected} tokens, got {entries}")
