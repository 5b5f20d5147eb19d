"""Trainer with one run per output directory, whose checkpoints are complete or absent and resume to the same bits."""

import logging
import math
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from segkernel.training.trainer.checkpoints import (
    PREFIX,
    delete_old_checkpoints,
    find_checkpoint,
    problem_of,
    read_json,
    read_manifest,
    write_manifest,
)
from segkernel.training.trainer.run_directory import check_run_directory
from segkernel.training.trainer.run_lock import run_lock
from segkernel.training.trainer.run_options import check_options, report_options, run_options
from segkernel.training.trainer.save_errors import save_errors
from segkernel.training.trainer.stop_signals import StopAfterStep, Stopped, StopRequest, stop_on

logger = logging.getLogger(__name__)


class ResumableConfig(TrainingArguments):
    """`transformers.TrainingArguments` whose options a resumed run is compared by."""

    output_dir: str

    def run_options(self) -> dict[str, Any]:
        """JSON values of the options that a resumed run has in common with its checkpoint."""
        return run_options(self)


class MetricError(ValueError):
    """`metric_for_best_model` is no metric of the evaluation."""


class ResumableTrainer(Trainer):
    """`transformers.Trainer` that adds a manifest to its checkpoints, a lock to its output directory, and a checkpoint
    on SIGTERM.

    Attributes:
        stop_request: a request to save and end after the current step; `train` then raises `Stopped`.
        is_set_up: whether `train` has made the optimizer and the schedule and loaded the checkpoint.
    """

    args: ResumableConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stop_request = StopRequest()
        self.is_set_up = False
        self._stop = StopAfterStep(self, self.stop_request)
        self.add_callback(self._stop)
        self.add_callback(MarkSetUp(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, or resume from a checkpoint directory or, with `True` or `"last"`, from the newest complete one.

        Resuming a finished run loads its weights and trains nothing.

        Raises:
            BlockingIOError: another process writes to the output directory.
            FileExistsError: it holds a run, which is not to be resumed.
            FileNotFoundError: there is no checkpoint.
            ValueError: the checkpoint is damaged, or of a run with other options.
            SaveError: a checkpoint could not be written.
            Stopped: a signal ended the run, after it saved a checkpoint.
        """
        with ExitStack() as scope:
            if self.args.should_save:
                scope.enter_context(run_lock(self.args.output_dir))
            checkpoint = find_checkpoint(self.args.output_dir, resume_from_checkpoint)
            check_run_directory(self.args.output_dir, resuming=checkpoint is not None)
            if checkpoint is not None:
                options = read_manifest(checkpoint)["options"], self.args.run_options()
                check_options(checkpoint, *options)
                if self.is_world_process_zero():
                    report_options(checkpoint, *options)
                self.restore(checkpoint)
                if is_finished(checkpoint, self.args):
                    return self.load_finished(checkpoint)
            scope.enter_context(stop_on(signal.SIGTERM, self.stop_request))
            output = super().train(checkpoint, *args, **kwargs)
            received, self.stop_request.received = self.stop_request.received, None
            # A signal after the last step finds a finished training.
            if received is not None and self._stop.stopping:
                if self.is_world_process_zero():
                    step, place = self.state.global_step, self.args.output_dir
                    logger.warning(
                        "stopped by %s after step %d, saved as %s%d in %s", received.name, step, PREFIX, step, place
                    )
                raise Stopped(received)
            return output

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        name = str(self.args.metric_for_best_model).removeprefix("eval_")
        if self.args.metric_for_best_model is not None and f"eval_{name}" not in metrics:
            found = sorted(key.removeprefix("eval_") for key in metrics if key.startswith("eval_"))
            raise MetricError(f"metric_for_best_model: expected one of {', '.join(found)}, got {name!r}")
        return bool(super()._determine_best_metric(metrics, trial))

    def restore(self, checkpoint: str) -> None:
        """Load the state that a method saves in its checkpoints next to the Trainer's."""

    def load_finished(self, checkpoint: str) -> TrainOutput:
        """Load the state and the weights of a finished run, as `train` leaves them."""
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
        if self.is_world_process_zero():
            logger.warning("the run is finished (step %d): nothing is trained", self.state.global_step)
        if self.is_fsdp_enabled:
            prepare: Any = self._prepare_for_training
            prepare(self.state.max_steps, self.get_train_dataloader(), checkpoint)
        else:
            self._load_from_checkpoint(checkpoint)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self._load_best_model()
        self.is_set_up = True
        return TrainOutput(self.state.global_step, math.nan, {})

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        output_dir = Path(self._get_output_dir(trial))
        checkpoint = output_dir / f"{PREFIX}{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(checkpoint, ignore_errors=True)  # incomplete, or of a run that went on from here before
        self.accelerator.wait_for_everyone()
        # The Trainer would delete old checkpoints before this one is complete.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with save_errors(checkpoint, output_dir):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    options = {"options": self.args.run_options(), "save_only_model": self.args.save_only_model}
                    write_manifest(checkpoint, **options)
        except BaseException:
            if self.args.should_save:
                shutil.rmtree(checkpoint, ignore_errors=True)
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            delete_old_checkpoints(checkpoint, limit, self.state.best_model_checkpoint)

    def save_run(self) -> None:
        """Save the model and the state of the finished training in the output directory."""
        with save_errors(self.args.output_dir, self.args.output_dir):
            self.save_model()
            self.save_state()

    def complete_run(self) -> None:
        """Write the manifest of the output directory, after its last file: it marks the run as finished."""
        if self.args.should_save:
            with save_errors(self.args.output_dir, self.args.output_dir):
                write_manifest(self.args.output_dir, options=self.args.run_options())


class MarkSetUp(TrainerCallback):
    """Sets `is_set_up` at the begin of the training, after the integrations have begun theirs."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.is_set_up = True


def is_finished(directory: str | Path, args: ResumableConfig) -> bool:
    """Whether the run saved in a checkpoint, or in an output directory, has taken all of its steps."""
    state = read_json(Path(directory) / TRAINER_STATE_NAME)
    if args.max_steps > 0:
        return bool(state["global_step"] >= args.max_steps)
    return bool(state["epoch"] >= args.num_train_epochs)


def finished_steps(args: ResumableConfig) -> int | None:
    """Number of steps of the finished run in the output directory, whose files are all there; `None` without one."""
    if problem_of(args.output_dir) is not None or not is_finished(args.output_dir, args):
        return None
    return int(read_json(Path(args.output_dir) / TRAINER_STATE_NAME)["global_step"])
