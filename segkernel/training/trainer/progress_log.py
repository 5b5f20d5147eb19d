"""Progress of training: one readable line per log entry, and a bar in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from segkernel.training.metrics import LINE_METRICS, MAIN, logged_metrics, metric_name
from segkernel.training.progress import Progress, duration, short, shows_bars, write_line


class ProgressLog(TrainerCallback):
    """Writes a line to standard error for every log entry, in place of the Trainer's dictionaries.

    In a terminal there are bars of training and evaluation as well, unless `--disable_tqdm` is set.
    """

    def __init__(self) -> None:
        self.training: Progress | None = None
        self.evaluation: Progress | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.training = Progress(
                "training", state.max_steps, bar=shows_bars(args.disable_tqdm), done=state.global_step
            )
            # The log entries are the lines.
            self.training.written = float("inf")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.training is not None:
            self.training.update(state.global_step)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        batches = kwargs.get("eval_dataloader")
        if not state.is_world_process_zero or not isinstance(batches, Sized):
            return
        if self.evaluation is None:
            self.evaluation = Progress("evaluation", len(batches), bar=shows_bars(args.disable_tqdm))
        self.evaluation.update(self.evaluation.done + 1)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._end_evaluation()

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: Any, **kwargs: Any
    ) -> None:
        self._end_evaluation()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or logs is None:
            return
        if "train_runtime" in logs:
            first = 0 if self.training is None else self.training.first
            steps = state.global_step - first
            write_line(f"trained {steps} step{'' if steps == 1 else 's'} in {duration(logs['train_runtime'])}")
            return
        held_out = any(metric_name(key).held_out for key in logs)
        line = [step_count(state), *(["held out:"] if held_out else []), *main_metrics(logs)]
        if not held_out and "learning_rate" in logs:
            line.append(f"lr {short(logs['learning_rate'], 2)}")
        if not held_out and self.training is not None:
            line.append(self.training.speed("step"))
        write_line("  ".join(filter(None, line)))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.training is not None and self.training.bar is not None:
            self.training.bar.close()

    def _end_evaluation(self) -> None:
        if self.evaluation is not None:
            self.evaluation.close()
            self.evaluation = None


def step_count(state: TrainerState) -> str:
    """Step and number of steps, aligned."""
    width = len(str(state.max_steps))
    return f"step {state.global_step:{width}d}/{state.max_steps}"


def main_metrics(logs: Mapping[str, Any]) -> list[str]:
    """Name and value of the most important metrics of a log entry.

    Example:
        >>> main_metrics({"loss": 0.512, "grad_norm": 3.0, "rewards/chosen": 0.1, "rewards/accuracies": 0.75})
        ['loss 0.512', 'accuracy 0.75']
    """
    names = {key: metric_name(key) for key in logged_metrics(logs)}
    order = list(MAIN)
    main = sorted(
        (key for key, name in names.items() if name.chart in MAIN and not name.part),
        key=lambda key: order.index(names[key].chart),
    )
    return [f"{names[key].title} {short(logs[key])}" for key in main[:LINE_METRICS]]
