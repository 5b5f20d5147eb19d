"""Context lengths of models, and options for lengths that fit them."""

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from segkernel.training.models.forward import innermost

__all__ = ["FITTED", "context_length", "fit_length", "shortest_context"]

logger = logging.getLogger(__name__)

# Default of options for lengths: an integer once the trainer has its models.
FITTED: Any = None


def context_length(model: nn.Module) -> int | None:
    """Longest sequence that a model reads, in tokens: `max_position_embeddings` of its config, by whatever name.

    `None` for models without such a bound (Mamba, MPT, BLOOM).
    """
    config: Any = getattr(innermost(model), "config", None)
    if config is None:
        return None
    try:
        longest = config.get_text_config(decoder=True).max_position_embeddings
    except (AttributeError, NotImplementedError):  # XLNet's config raises the latter
        return None
    return longest if isinstance(longest, int) and longest > 0 else None


def shortest_context(models: Mapping[str, Any]) -> tuple[str, int] | None:
    """Name and context length of the model with the shortest one; `None` if none has a bound.

    Args:
        models: models, or objects such as scorers that hold models as attributes; other values are ignored.
    """
    found = []
    for name, value in models.items():
        parts = [value] if isinstance(value, nn.Module) else getattr(value, "__dict__", {}).values()
        lengths = [context_length(part) for part in parts if isinstance(part, nn.Module)]
        found += [(name, length) for length in lengths if length is not None]
    return min(found, key=lambda pair: pair[1], default=None)


def fit_length(option: str, given: int | None, default: int, models: Mapping[str, Any]) -> int:
    """Length in tokens that every model reads: the given one, or the default, lowered to the shortest context.

    Raises:
        ValueError: the given one is longer than a context.
    """
    shortest = shortest_context(models)
    if shortest is None:
        return default if given is None else given
    name, longest = shortest
    if given is None:
        if default > longest:
            logger.warning("%s: %d tokens, the context of %s; the default is %d", option, longest, the(name), default)
        return min(default, longest)
    if given > longest:
        raise ValueError(f"{option}: expected at most {longest} tokens, the context of {the(name)}, got {given}")
    return given


def the(name: str) -> str:
    """Name of a model in a sentence: `the reward model` for `reward_model`."""
    return f"the {name.replace('_', ' ')}"
