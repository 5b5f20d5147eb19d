"""Options of a run, and which of them a resumed run may change."""

import json
import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from transformers import TrainingArguments

logger = logging.getLogger(__name__)

# Options of logs, evaluations, checkpoints and the machine, which leave the weights as they are.
FREE_PREFIXES = ("dataloader_", "ddp_", "eval_", "hub_", "include_", "log_", "logging_", "report_", "save_", "trackio_")
FREE = {
    *("output_dir", "resume_from_checkpoint", "disable_tqdm", "run_name", "project", "debug"),
    *("per_device_eval_batch_size", "skip_memory_metrics"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "push_to_hub"),
    *("torch_empty_cache_steps", "merge_adapter"),
}

# Options that may change, with a warning: the length of the run, and how a step is computed.
REPORTED_PREFIXES = ("activation_checkpointing", "fsdp", "gradient_checkpointing", "torch_compile", "use_liger")
REPORTED = {
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "processes"),
    *("bf16", "fp16", "tf32", "use_cpu", "use_cache", "full_determinism"),
    "average_tokens_across_devices",
}

# Options whose names start like those of `FREE_PREFIXES` and that change the order or number of rows.
FIXED = {"dataloader_drop_last"}


def run_options(args: TrainingArguments, **more: Any) -> dict[str, Any]:
    """JSON values of the options of a run that are compared when it is resumed."""
    unused = getattr(args, "unused_options", {})
    names = [field.name for field in fields(args) if field.init and field.name not in unused]
    kept = [name for name in names if name in FIXED or not (name in FREE or name.startswith(FREE_PREFIXES))]
    rows = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    options = {name: getattr(args, name) for name in kept} | {"processes": args.world_size, "rows_per_step": rows}
    content: dict[str, Any] = json.loads(json.dumps(options | more, default=str))
    return content


def check_options(checkpoint: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to resume a run with options that it would ignore, or that would make it another run.

    Raises:
        ValueError: the options of the checkpoint, `before`, differ.
    """
    refused = [f"{name}={before[name]!r}, not {now[name]!r}" for name in _changed(before, now) if not _reported(name)]
    if refused:
        raise ValueError(
            f"resume_from_checkpoint: the run of {checkpoint!r} has {'; '.join(refused)}. Resume it with its own "
            f"options, or start a new run from its weights with --model {checkpoint} and another --output_dir"
        )


def report_options(checkpoint: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Log the options that a resumed run may change, and that it does change."""
    for name in filter(_reported, _changed(before, now)):
        logger.warning("resumed with %s=%r; until %s it was %r", name, now[name], checkpoint, before[name])


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    # As text, so that NaN equals NaN.
    return [name for name in now if name in before and json.dumps(before[name]) != json.dumps(now[name])]


def _reported(name: str) -> bool:
    return name in REPORTED or name.startswith(REPORTED_PREFIXES)
