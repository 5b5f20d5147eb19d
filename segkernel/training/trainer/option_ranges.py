"""Ranges of the options of `transformers.TrainingArguments` that are numbers, and NaN in any option."""

import json
import math
from dataclasses import fields
from typing import Any, NamedTuple


class Range(NamedTuple):
    """Numbers that an option accepts: `low <= value < high`, or `low < value` if `low` is excluded."""

    low: float
    high: float = math.inf
    includes_low: bool = True

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float):
            return False
        return (self.low <= value if self.includes_low else self.low < value) and value < self.high

    def of(self, name: str) -> str:
        """The range of the option `name`, as errors state it."""
        if self.high < math.inf:
            return f"{self.low:g} <= {name} < {self.high:.10g}"
        if self.low == 1:
            return ">= 1"
        return f"a finite number {'>=' if self.includes_low else '>'} {self.low:g}"


POSITIVE = Range(0, includes_low=False)
NOT_NEGATIVE = Range(0)
AT_LEAST_ONE = Range(1)
SHARE = Range(0, 1)
SEED = Range(0, 2**32)

RANGES = {
    "adam_beta1": SHARE,
    "adam_beta2": SHARE,
    "adam_epsilon": NOT_NEGATIVE,
    "data_seed": SEED,
    "dataloader_num_workers": NOT_NEGATIVE,
    "dataloader_prefetch_factor": AT_LEAST_ONE,
    "ddp_bucket_cap_mb": AT_LEAST_ONE,
    "ddp_timeout": AT_LEAST_ONE,
    "eval_accumulation_steps": AT_LEAST_ONE,
    "eval_delay": NOT_NEGATIVE,
    "eval_steps": POSITIVE,
    "gradient_accumulation_steps": AT_LEAST_ONE,
    "learning_rate": NOT_NEGATIVE,
    "logging_steps": POSITIVE,
    "max_grad_norm": NOT_NEGATIVE,
    "max_length": AT_LEAST_ONE,
    "num_train_epochs": POSITIVE,
    "per_device_eval_batch_size": AT_LEAST_ONE,
    "per_device_train_batch_size": AT_LEAST_ONE,
    "save_steps": POSITIVE,
    "save_total_limit": AT_LEAST_ONE,
    "seed": SEED,
    "torch_empty_cache_steps": AT_LEAST_ONE,
    "warmup_steps": NOT_NEGATIVE,
    "weight_decay": NOT_NEGATIVE,
}


def check_ranges(config: Any) -> None:
    """Refuse options of a config that are out of range; `None` stands for a default.

    Raises:
        ValueError: an option is out of its range.
    """
    for name, accepted in RANGES.items():
        value = getattr(config, name, None)
        if value is not None and value not in accepted:
            raise ValueError(f"{name}: expected {accepted.of(name)}, got {value}")
    if config.max_steps != -1 and config.max_steps < 1:
        raise ValueError(f"max_steps: expected >= 1, or -1 for a run by epochs, got {config.max_steps}")


def check_numbers(config: Any) -> None:
    """Refuse NaN in every option, and numbers that are no integers in integer options.

    Raises:
        ValueError: an option is one of these.
    """
    for option in fields(config):
        value = getattr(config, option.name)
        if not isinstance(value, float):
            continue
        if math.isnan(value):
            raise ValueError(f"{option.name}: expected a number, got nan")
        if option.type in (int, int | None) and not value.is_integer():
            raise ValueError(f"{option.name}: expected an integer, got {value}")


def check_json(config: Any) -> None:
    """Refuse text that is no JSON object for options of keyword arguments.

    Raises:
        ValueError: an option is no JSON object.
    """
    for name in ("lr_scheduler_kwargs", "activation_checkpointing_kwargs", "gradient_checkpointing_kwargs"):
        value = getattr(config, name, None)
        if value is not None and not isinstance(value, dict) and not _is_object(value):
            raise ValueError(f'{name}: expected a JSON object such as {{"key": 1}}, got {value!r}')


def _is_object(text: Any) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (TypeError, ValueError):
        return False
