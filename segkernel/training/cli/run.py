"""Run of a trainer from the command line: train, evaluate, save, report."""

import signal
import sys
from typing import Any

import torch

from segkernel._arguments import UserError
from segkernel.training.report import write_report
from segkernel.training.trainer.base import SegkernelTrainer
from segkernel.training.trainer.checkpoints import last_complete
from segkernel.training.trainer.save_errors import SaveError, save_errors
from segkernel.training.trainer.stop_signals import Stopped, stop_on


def run_to_end(trainer: SegkernelTrainer, method: str) -> int:
    """Run a trainer and print how to resume it if it ends early.

    Returns:
        The exit status: 0, or 128 plus the number of the signal that ended the run.

    Raises:
        UserError: rewards that are not finite, a file that could not be written, too little memory.
    """
    output_dir = trainer.args.output_dir
    try:
        run(trainer, method)
    except (FloatingPointError, SaveError) as error:
        raise UserError(str(error)) from error
    except torch.OutOfMemoryError as error:
        raise UserError(
            "the device is out of memory: lower --per_device_train_batch_size and raise --gradient_accumulation_steps "
            f"by the same factor. {how_to_resume(output_dir)}"
        ) from error
    except Stopped as stopped:
        print(f"segkernel: stopped; {how_to_resume(output_dir)}", file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print(f"segkernel: interrupted; {how_to_resume(output_dir)}", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception:
        print(f"segkernel: the run failed; {how_to_resume(output_dir)}", file=sys.stderr)
        raise
    return 0


def how_to_resume(output_dir: str) -> str:
    """Half a sentence for a run that has ended early."""
    last = last_complete(output_dir)
    if last is None:
        return "there is no checkpoint yet, so the same command starts anew"
    return f"add `--resume_from_checkpoint last` to the same command to resume from {last}"


def run(trainer: SegkernelTrainer, method: str) -> dict[str, Any]:
    """Train, evaluate, save the model and write the report.

    Returns:
        The held-out metrics of the trained model, `eval_...`; none without held-out rows.
    """
    arguments = trainer.args
    with stop_on(signal.SIGINT, trainer.stop_request):
        trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    metrics = held_out_metrics(trainer)
    trainer.save_run()
    if trainer.is_world_process_zero():
        examples = trainer.report_examples()
        with save_errors(arguments.output_dir, arguments.output_dir):
            report = write_report(
                arguments.output_dir,
                title=f"segkernel {method}",
                log_history=trainer.state.log_history,
                examples=examples,
                summary=metrics,
            )
        trainer.complete_run()
        for name, value in metrics.items():
            print(f"{name:30} {value:.4g}")
        print(f"model:  {arguments.output_dir}\nreport: {report}")
    return metrics


def held_out_metrics(trainer: SegkernelTrainer) -> dict[str, Any]:
    """Metrics of the trained model on the held-out rows, evaluated unless the run ended on an evaluation."""
    if trainer.eval_dataset is None:
        return {}
    last = [log for log in trainer.state.log_history if "eval_loss" in log][-1:]
    if not last or last[0]["step"] != trainer.state.global_step or trainer.args.load_best_model_at_end:
        last = [trainer.evaluate()]
    return {name: value for name, value in last[0].items() if name.startswith("eval_")}
