"""Signals that end a run after the current step, with a checkpoint."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy


class StopRequest:
    """Signal that was received, if any: the run saves a checkpoint after the current step and ends."""

    received: signal.Signals | None = None


class Stopped(SystemExit):
    """The run has saved a checkpoint and ended because of a signal; the exit status is 128 plus its number."""

    def __init__(self, received: signal.Signals) -> None:
        super().__init__(128 + received)
        self.signal = received


@contextmanager
def stop_on(number: signal.Signals, request: StopRequest) -> Iterator[None]:
    """Turn the first signal into a request to stop; a second one has its default effect at once.

    A handler that the program has installed itself stays. Only the main thread can install one.
    """
    default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(number) is not default:
        yield
        return

    def handle(_number: int, _frame: FrameType | None) -> None:
        request.received = number
        signal.signal(number, default)
        os.write(2, b"\nsegkernel: ending after this step, with a checkpoint; the same signal again ends at once\n")

    signal.signal(number, handle)
    try:
        yield
    finally:
        signal.signal(number, default)


class StopAfterStep(TrainerCallback):
    """Ends the training after the step during which a signal arrived, in any process of the run, and saves.

    The checkpoint is written at the end of the epoch's loop, which the Trainer reaches from every step, and where it
    evaluates if the epoch is complete.
    """

    def __init__(self, trainer: Trainer, request: StopRequest) -> None:
        self.trainer, self.request = trainer, request
        self.saved_step = -1
        self.stopping = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.stopping = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.saved_step = state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        requested = self.request.received is not None
        if args.world_size > 1:
            flag = torch.tensor(float(requested), device=args.device)
            requested = bool(self.trainer.accelerator.reduce(flag, reduction="sum") > 0)
        if requested:
            # The signal may have reached another process of the run only.
            self.request.received = self.request.received or signal.SIGTERM
            self.stopping = control.should_training_stop = control.should_log = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if not self.stopping:
            return
        # An evaluation under `--save_strategy best` decides about saving; the rest of the epoch is still to come in
        # the middle of one.
        if state.epoch != int(state.epoch or 0) or args.save_strategy == SaveStrategy.BEST:
            control.should_evaluate = False
        control.should_save = control.should_save or self.saved_step != state.global_step
