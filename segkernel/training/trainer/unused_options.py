"""Options of `transformers.TrainingArguments` that have no effect in these trainers, or none that works.

The command line leaves them out; a config refuses every value other than the default.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

LOSS = "the losses of these trainers do not read it"
METRICS = "the trainers compute their metrics per row"
BATCHES = "batches hold more than the model's own arguments"
RESUME = "a resumed run continues at its next batch, in the state that it was in"
ROUNDING = "the evaluation at the end would round the weights that are saved"
SCRIPTS = "it is for scripts of one's own"

UNUSED = {
    "accelerator_config": "configure accelerate with `accelerate launch`",
    "auto_find_batch_size": "a smaller batch would make another run: set per_device_train_batch_size",
    "batch_eval_metrics": METRICS,
    "bf16_full_eval": ROUNDING,
    "deepspeed": "shard with FSDP2 (`accelerate launch --use_fsdp --fsdp_version 2`)",
    "do_eval": f"{SCRIPTS}: set eval_strategy",
    "do_predict": SCRIPTS,
    "do_train": SCRIPTS,
    "enable_jit_checkpoint": "SIGTERM always saves a checkpoint",
    "eval_do_concat_batches": METRICS,
    "eval_use_gather_object": METRICS,
    "fp16_full_eval": ROUNDING,
    "ignore_data_skip": RESUME,
    "include_for_metrics": METRICS,
    "label_names": LOSS,
    "label_smoothing_factor": LOSS,
    "length_column_name": BATCHES,
    "local_rank": "the launcher sets it",
    "neftune_noise_alpha": "losses compare the model with a frozen or earlier one, which runs without noise",
    "parallelism_config": "configure accelerate with `accelerate launch`",
    "prediction_loss_only": METRICS,
    "remove_unused_columns": BATCHES,
    "restore_callback_states_from_checkpoint": RESUME,
}

# Further ones of the trainers whose prompts are in an order of their own.
UNUSED_IN_ROLLOUTS = {
    "data_seed": "the order of the prompts is a function of seed",
    "dataloader_drop_last": "a rollout always has as many prompts",
    "include_num_input_tokens_seen": "the batches of the data are prompts",
    "train_sampling_strategy": "the order of the prompts is a function of seed",
}


# The launcher sets it in every config.
SET_BY_LAUNCHER = "local_rank"


def refuse_unused(config: Any, unused: Mapping[str, str]) -> None:
    """Refuse options of a config that would be ignored.

    Raises:
        ValueError: one of `unused` has another value than the default.
    """
    defaults = {field.name: field.default for field in fields(config)}
    for name, reason in unused.items():
        value = getattr(config, name, None)
        if value and value != defaults[name] and name != SET_BY_LAUNCHER:
            raise ValueError(f"{name}: expected {defaults[name]!r}, since {reason}, got {value!r}")
