"""Special tokens of a model's configs, which are to be those of its tokenizer."""

from typing import Any

from transformers import PreTrainedTokenizerBase

__all__ = ["align_special_tokens"]


def align_special_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Set the special tokens in the configs of a model to those that its tokenizer has.

    The ids that end a text in the generation config stay, next to the tokenizer's. `transformers.Trainer` does the same
    when training starts, and warns of it: also for a tokenizer with a padding token that the model never reads.
    """
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        token = getattr(tokenizer, name)
        configs = [model.config.get_text_config(), getattr(model, "generation_config", None)]
        for config in (config for config in configs if config is not None and token is not None):
            present = getattr(config, name, None)
            several = isinstance(present, list) or (name == "eos_token_id" and config is configs[1])
            ids = present if isinstance(present, list) else [] if present is None else [present]
            if token not in ids:
                setattr(config, name, [token, *ids] if several else token)
