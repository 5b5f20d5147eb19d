"""From a command line to a trainer's inputs, and from a trainer to a finished run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser, PreTrainedTokenizerBase, set_seed
from transformers.trainer_utils import IntervalStrategy

from segkernel.training.data.readers import (
    PreferenceArguments,
    PromptArguments,
    TextArguments,
    read_preferences,
    read_prompts,
    read_texts,
    split_by_prompt,
)
from segkernel.training.models import ModelArguments, load_causal_lm, load_tokenizer
from segkernel.training.rewards.scoring import RewardArguments, load_reward_source
from segkernel.training.trainer.base import SegkernelConfig, SegkernelTrainer
from segkernel.training.trainer.run_directory import (
    check_record,
    check_run_directory,
    find_checkpoint,
    run_record,
    write_record,
)


@dataclass
class Inputs:
    """What a method's command line comes down to: rows to train on, rows held out (or `None`), the tokenizer."""

    train: list[dict[str, Any]]
    held_out: list[dict[str, Any]] | None
    tokenizer: PreTrainedTokenizerBase


def parse_arguments(method: str, argv: Sequence[str], *types: Any) -> Any:
    """Parse the options of one method into its dataclasses; `--help` lists all of them."""
    parser = HfArgumentParser(list(types), prog=f"segkernel train --method {method}")
    return parser.parse_args_into_dataclasses(list(argv), look_for_args_file=False)


def prepare_pairs(
    method: str,
    config: SegkernelConfig,
    data: PreferenceArguments,
    start: ModelArguments,
    *,
    reward_columns: Mapping[str, str] | None = None,
    **sources: str,
) -> Inputs:
    """Claim the output directory, read the pairs, hold some out, and get the tokenizer.

    `reward_columns` says where the rows hold token rewards, as options of `read_preferences`. `sources`, what else a
    method learns from, goes into the record of the run.
    """
    _required("preferences", data.preferences)
    record = _claim_run(method, config, data.preferences, start, **sources)
    rows = read_preferences(data.preferences, separator=data.separator, **(reward_columns or {}))
    train, held_out = split_by_prompt(rows, data.eval_fraction, seed=data.split_seed)
    texts = (row[name] for row in train for name in ("prompt", "chosen", "rejected"))
    return _inputs(config, start, record, train, held_out, texts)


def prepare_texts(method: str, config: SegkernelConfig, data: TextArguments, start: ModelArguments) -> Inputs:
    """The same for texts."""
    _required("texts", data.texts)
    record = _claim_run(method, config, data.texts, start)
    rows = read_texts(data.texts, separator=data.separator)
    train, held_out = split_by_prompt(rows, data.eval_fraction, seed=data.split_seed, key="completion")
    texts = (row[name] for row in train for name in ("prompt", "completion"))
    return _inputs(config, start, record, train, held_out, texts)


def prepare_prompts(
    method: str, config: SegkernelConfig, data: PromptArguments, start: ModelArguments, **sources: str
) -> Inputs:
    """The same for prompts."""
    _required("prompts", data.prompts)
    record = _claim_run(method, config, data.prompts, start, **sources)
    rows = read_prompts(data.prompts, separator=data.separator)
    train, held_out = split_by_prompt(rows, data.eval_fraction, seed=data.split_seed)
    return _inputs(config, start, record, train, held_out, (row["prompt"] for row in train))


def build_from_prompts(
    method: str,
    argv: Sequence[str],
    config_type: type,
    trainer_type: Callable[..., Any],
    trainer_options: Callable[[RewardArguments], dict[str, Any]] = lambda rewards: {},
) -> Any:
    """The trainer of a method on prompts that are rewarded as `RewardArguments` say.

    `trainer_options` gives what the trainer takes besides, before any work.
    """
    config, rewards, data, start = parse_arguments(
        method, argv, config_type, RewardArguments, PromptArguments, ModelArguments
    )
    reward_source, options = rewards.source(), trainer_options(rewards)
    prompts = prepare_prompts(method, config, data, start, rewards=reward_source)
    source = load_reward_source(rewards, prompts.tokenizer, start)
    model = load_causal_lm(start, prompts.tokenizer)
    return trainer_type(
        model, config, prompts.train, prompts.held_out, prompts.tokenizer, reward_model=source, **options
    )


def _required(name: str, value: str) -> None:
    if not value:
        raise ValueError(f"{name}: expected a JSONL file, got none (--{name} FILE)")
    if not Path(value).is_file():
        raise FileNotFoundError(f"{name}: there is no file {value!r}")


def _claim_run(
    method: str, config: SegkernelConfig, data_file: str, start: ModelArguments, **sources: str
) -> dict[str, str | None]:
    """Everything that could mix two runs is refused here, before any work."""
    config.resume_from_checkpoint = find_checkpoint(config.output_dir, config.resume_from_checkpoint)
    record = {**run_record(method, data_file, start.model), **sources}
    checkpoint = None if config.resume_from_checkpoint is None else Path(config.resume_from_checkpoint).resolve()
    # A checkpoint of another directory starts a run here, so here there must be none.
    check_run_directory(
        config.output_dir, resuming=checkpoint is not None and checkpoint.parent == Path(config.output_dir).resolve()
    )
    if checkpoint is not None:
        check_record(checkpoint.parent, record)
        if start.model is None and start.tokenizer is None:
            start.tokenizer = config.resume_from_checkpoint
    return record


def _inputs(
    config: SegkernelConfig,
    start: ModelArguments,
    record: dict[str, str | None],
    train: list[dict[str, Any]],
    held_out: list[dict[str, Any]],
    texts: Iterable[str],
) -> Inputs:
    if not held_out:
        config.eval_strategy = IntervalStrategy.NO
    if config.device.type == "cpu":
        config.dataloader_pin_memory = False
    tokenizer = load_tokenizer(start, texts)
    # A model made on the spot, or a new head, is the same whenever the run is started or resumed.
    set_seed(config.seed)
    if config.should_save:
        write_record(config.output_dir, record)
    return Inputs(train, held_out or None, tokenizer)


def run(trainer: SegkernelTrainer, method: str) -> dict[str, Any]:
    """Train, evaluate, save the model and write the report; returns the held-out metrics."""
    from segkernel.training.report import write_report

    arguments = trainer.args
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    metrics = _held_out_metrics(trainer)
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        report = write_report(
            arguments.output_dir,
            title=f"segkernel {method}",
            log_history=trainer.state.log_history,
            examples=trainer.report_examples(),
            summary=metrics,
        )
        for name, value in metrics.items():
            print(f"{name:30} {value:.4g}")
        print(f"model:  {arguments.output_dir}\nreport: {report}")
    return metrics


def _held_out_metrics(trainer: SegkernelTrainer) -> dict[str, Any]:
    """The metrics of the trained model, evaluated unless the run ended on an evaluation."""
    if trainer.eval_dataset is None:
        return {}
    last = [log for log in trainer.state.log_history if "eval_loss" in log][-1:]
    if not last or last[0]["step"] != trainer.state.global_step or trainer.args.load_best_model_at_end:
        last = [trainer.evaluate()]
    return {name: value for name, value in last[0].items() if name.startswith("eval_")}
