"""Base class of the dataclasses of options that configs are combined from."""

from dataclasses import dataclass


@dataclass
class OptionsMixin:
    """Dataclass of options, used by itself or mixed into a config in front of `transformers.TrainingArguments`.

    A subclass checks its options in `__post_init__` and calls `super().__post_init__()`, which goes on to the next
    class of the config.
    """

    def __post_init__(self) -> None:
        following = getattr(super(), "__post_init__", None)
        if following is not None:
            following()
