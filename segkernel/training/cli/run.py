"""Run of a trainer from the command line: train, evaluate, save, report."""

import signal
import sys
import textwrap
import time
from collections.abc import Mapping
from typing import Any

import torch

from segkernel._arguments import UserError
from segkernel.training.cli.facts import Command, run_command, run_facts
from segkernel.training.metrics import readable_metrics
from segkernel.training.report import write_report
from segkernel.training.trainer.base import SegkernelTrainer
from segkernel.training.trainer.checkpoints import last_complete
from segkernel.training.trainer.resumable import MetricError
from segkernel.training.trainer.save_errors import SaveError, save_errors
from segkernel.training.trainer.stop_signals import Stopped, stop_on

# Errors before the first step: of the options of the optimizer, the schedule or an integration.
SETUP_ERRORS = (ValueError, TypeError, KeyError, OSError, ImportError, NotImplementedError)


def run_to_end(trainer: SegkernelTrainer, command: Command) -> int:
    """Run a trainer and print how to resume it if it ends early.

    Returns:
        The exit status: 0, or 128 plus the number of the signal that ended the run.

    Raises:
        UserError: rewards that are not finite, a file that could not be written, too little memory.
    """
    output_dir = trainer.args.output_dir
    try:
        run(trainer, command)
    except (FloatingPointError, SaveError, MetricError) as error:
        raise UserError(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the device is out of memory: lower --per_device_train_batch_size and raise --gradient_accumulation_steps "
            f"by the same factor. {how_to_resume(output_dir)}"
        ) from error
    except Stopped as stopped:
        if trainer.is_world_process_zero():
            print(f"segkernel: stopped; {how_to_resume(output_dir)}", file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print(f"segkernel: interrupted; {how_to_resume(output_dir)}", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if not trainer.is_set_up and isinstance(error, SETUP_ERRORS):
            raise UserError(f"the training could not be set up with these options: {error}") from error
        print(f"segkernel: the run failed; {how_to_resume(output_dir)}", file=sys.stderr)
        raise
    return 0


def how_to_resume(output_dir: str) -> str:
    """Half a sentence for a run that has ended early."""
    last = last_complete(output_dir)
    if last is None:
        return "there is no checkpoint yet, so the same command starts anew"
    return f"add `--resume_from_checkpoint last` to the same command to resume from {last}"


def run(trainer: SegkernelTrainer, command: Command) -> dict[str, Any]:
    """Train, evaluate, save the model, write the report, and print the metrics and what ran.

    Args:
        trainer: trainer of the run.
        command: the command that made it.

    Returns:
        The held-out metrics of the trained model, `eval_...`; none without held-out rows.
    """
    arguments = trainer.args
    with stop_on(signal.SIGINT, trainer.stop_request):
        trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    metrics = held_out_metrics(trainer)
    trainer.save_run()
    examples = trainer.report_examples()  # in every process: frozen models may be read for it
    if trainer.is_world_process_zero():
        facts, repeat = run_facts(trainer, command, time.monotonic() - command.began), run_command(command)
        summary = readable_metrics(metrics)
        with save_errors(arguments.output_dir, arguments.output_dir):
            report = write_report(
                arguments.output_dir,
                title=f"segkernel {command.method.name}",
                log_history=trainer.state.log_history,
                examples=examples,
                summary=summary,
                facts=facts,
                command=repeat,
            )
        trainer.complete_run()
        if summary:
            print(table({"held out": "", **{f"  {name}": value for name, value in summary.items()}}))
        print(table(facts))
        print(f"command: {repeat}\nmodel: {arguments.output_dir}\nreport: {report}")
    return metrics


def table(rows: Mapping[str, str], width: int = 80) -> str:
    """Names and values in two columns; values that are too long continue below.

    Example:
        >>> print(table({"loss": "0.69", "versions": "torch 2.13.0, python 3.11"}, width=26))
        loss      0.69
        versions  torch 2.13.0,
                  python 3.11
    """
    column = max(map(len, rows)) + 2
    lines: list[str] = []
    for name, value in rows.items():
        wrapped = textwrap.wrap(value, width - column, break_long_words=False, break_on_hyphens=False) or [""]
        lines += [f"{name:{column}}{wrapped[0]}".rstrip(), *(" " * column + line for line in wrapped[1:])]
    return "\n".join(lines)


def held_out_metrics(trainer: SegkernelTrainer) -> dict[str, Any]:
    """Metrics of the trained model on the held-out rows, evaluated unless the run ended on an evaluation."""
    if trainer.eval_dataset is None:
        return {}
    last = [log for log in trainer.state.log_history if "eval_loss" in log][-1:]
    if not last or last[0]["step"] != trainer.state.global_step or trainer.args.load_best_model_at_end:
        last = [trainer.evaluate()]
    return {name: value for name, value in last[0].items() if name.startswith("eval_")}
