"""Trainer of `segkernel train METHOD`: options to inputs, data, models and the trainer made of them."""

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import HfApi
from transformers import set_seed
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.trainer_utils import IntervalStrategy
from transformers.utils.logging import disable_progress_bar

from segkernel.training.cli.arguments import (
    PreferenceArguments,
    PromptArguments,
    RewardArguments,
    TextArguments,
)
from segkernel.training.cli.inputs import INPUTS, Options, rewards_in_data
from segkernel.training.cli.options import OptionParser
from segkernel.training.data.conversations import check_chat_template
from segkernel.training.data.formats import ARGUMENTS
from segkernel.training.data.readers import read_preferences, read_prompts, read_texts, split_by_prompt
from segkernel.training.methods.registry import Method
from segkernel.training.models import ModelArguments, load_causal_lm, load_reward_model, load_tokenizer
from segkernel.training.models.adapter_options import AdapterArguments
from segkernel.training.models.paths import locate
from segkernel.training.progress import shows_bars
from segkernel.training.trainer.base import SegkernelConfig, SegkernelTrainer
from segkernel.training.trainer.checkpoints import find_checkpoint, is_last, read_manifest, run_of
from segkernel.training.trainer.resumable import finished_steps, is_finished
from segkernel.training.trainer.rollout import RolloutConfig
from segkernel.training.trainer.run_directory import check_record, check_run_directory, run_record, write_record
from segkernel.training.trainer.run_options import check_options

DATA = {"texts": TextArguments, "preferences": PreferenceArguments, "prompts": PromptArguments}


def build_trainer(method: Method, options: Options, record: dict[str, Any]) -> SegkernelTrainer:
    """Trainer of a method, from its command-line options and the record of its run (`claim_run`).

    Raises:
        ValueError, OSError: malformed data, or a mistake in a model, which is loaded last.
    """
    train, held_out = read_data(options)
    config = options.config
    if isinstance(config, RolloutConfig):
        config.check_prompts(len(train))
    if not shows_bars(config.disable_tqdm):
        disable_progress_bar()
    if not held_out:
        config.eval_strategy = IntervalStrategy.NO
    if config.device.type == "cpu":
        config.dataloader_pin_memory = False
    texts = (row[name] for row in train for name in options.data.text_columns)
    tokenizer = load_tokenizer(options.model, texts)
    if ARGUMENTS in train.column_names:
        check_chat_template(tokenizer, options.data.path)
    # A model with new weights, or a new head, is the same whenever the run is started or resumed.
    set_seed(config.seed)
    inputs = {INPUTS[name].argument: INPUTS[name].load(options, tokenizer) for name in method.inputs}
    model = (load_reward_model if method.model == "reward" else load_causal_lm)(options.model, tokenizer)
    # transformers keeps its bars of loading only: one per checkpoint would break the bar of training.
    disable_progress_bar()
    _, trainer_class = method.load()
    trainer: SegkernelTrainer = trainer_class(
        model=model,
        args=config,
        train_dataset=train,
        eval_dataset=held_out or None,
        processing_class=tokenizer,
        peft_config=options.adapter.peft_config(),
        **inputs,
    )
    if config.should_save:
        write_record(config.output_dir, record)
    return trainer


def option_parser(method: Method) -> OptionParser:
    """Parser of all options of a method; those of its config come first."""
    config_class, _ = method.load()
    module_summary, *_ = inspect.cleandoc(sys.modules[method.module].__doc__ or "").split("\n\n")
    rewards = [RewardArguments] if "reward_model" in method.inputs else []
    parser = OptionParser(
        [config_class, *rewards, DATA[method.data], ModelArguments, AdapterArguments],
        prog=f"segkernel train {method.name}",
        description=module_summary,
        title=method.name,
    )
    parser.set_defaults(output_dir=f"runs/{method.name}")
    return parser


def parse_options(method: Method, argv: Sequence[str]) -> Options:
    """Parse the options of a method."""
    config, *rewards, data, model, adapter = option_parser(method).parse(argv)
    return Options(config, data, model, adapter, rewards[0] if rewards else RewardArguments())


def claim_run(method: Method, options: Options) -> dict[str, Any]:
    """Validate the options, the output directory and the resume state before anything is loaded.

    Returns:
        The record of the run (`run.json`): what a resumed run must have in common with it.

    Raises:
        ValueError, OSError: an option out of range, a missing file or directory, a directory that holds another run.
    """
    config, start = options.config, options.model
    sources = {name: value for key in method.inputs for name, value in INPUTS[key].check(options).items()}
    path = options.data.path
    check_models(options)
    check_integrations(config.report_to)
    check_hub(config)
    options.adapter.check(start.model, disable_dropout=config.disable_dropout)
    record = {**run_record(method.name, path, start.model), **sources, **recorded_options(options)}
    if is_last(config.resume_from_checkpoint) and finished_steps(config) is not None:
        checkpoint: str | None = config.output_dir
    else:
        checkpoint = config.resume_from_checkpoint = find_checkpoint(config.output_dir, config.resume_from_checkpoint)
    run = None if checkpoint is None else run_of(checkpoint)
    # A checkpoint of another directory starts a run here, so here there must be none.
    check_run_directory(
        config.output_dir, resuming=run is not None and run.resolve() == Path(config.output_dir).resolve()
    )
    if checkpoint is not None and run is not None:
        check_record(run, record)
        # The trainer fits lengths that are not given to the model's context, and compares them as well.
        given = {name: value for name, value in config.run_options().items() if value is not None}
        check_options(checkpoint, read_manifest(checkpoint)["options"], given)
        if start.model is None and start.tokenizer is None:
            start.tokenizer = checkpoint
    return record


def recorded_options(options: Options) -> dict[str, Any]:
    """Options of data, initial model, adapter and rewards that a resumed run must have in common with its start."""
    groups = (options.data, options.model, options.adapter, options.rewards)
    values = {name: value for group in groups for name, value in vars(group).items()}
    return {name: value for name, value in values.items() if name not in ("model", options.data.file_option)}


def is_finished_run(config: SegkernelConfig) -> bool:
    """Whether the run to be resumed is finished and completely saved, so that there is nothing to do."""
    resumed = config.resume_from_checkpoint
    if not resumed or finished_steps(config) is None:
        return False
    return is_last(resumed) or is_finished(resumed, config)


def check_models(options: Options) -> None:
    """Refuse models and tokenizers that are not there, before the data are read."""
    rewards = options.rewards
    names = {
        "model": options.model.model,
        "tokenizer": options.model.tokenizer,
        "reward_model": rewards.reward_model,
        "reward_policy": rewards.reward_policy,
    }
    for option, path in names.items():
        if path:
            locate(path, option)


def check_integrations(names: str | list[str]) -> None:
    """Refuse integrations of `--report_to` that do not exist or are not installed.

    Raises:
        ValueError: one of them cannot be used.
    """
    try:
        for callback in get_reporting_integration_callbacks(names):
            callback()
    except (ImportError, RuntimeError, ValueError) as error:
        raise ValueError(f"report_to: {error}") from error


def check_hub(config: SegkernelConfig) -> None:
    """Refuse `--push_to_hub` without a login, or without a network.

    Raises:
        ValueError: the hub cannot be written to.
    """
    if config.push_to_hub:
        try:
            HfApi(token=config.hub_token).whoami()
        except Exception as error:  # of whichever HTTP client huggingface_hub is built on
            raise ValueError(
                f"push_to_hub: cannot log in to the Hugging Face Hub ({type(error).__name__}): run `hf auth login`, "
                "and check the network"
            ) from error


def read_data(options: Options) -> tuple[Dataset, Dataset]:
    """Read the data and split it into training rows and held-out rows."""
    data = options.data
    how: dict[str, Any] = {"separator": data.separator, "skip_bad_rows": options.config.skip_bad_rows}
    if isinstance(data, PreferenceArguments):
        columns = options.config.reward_columns if rewards_in_data(options) else {}  # type: ignore[attr-defined]
        rows = read_preferences(data.path, **how, **columns)
    else:
        rows = (read_texts if isinstance(data, TextArguments) else read_prompts)(data.path, **how)
    return split_by_prompt(rows, data.eval_fraction, seed=data.split_seed, key=data.split_column)
