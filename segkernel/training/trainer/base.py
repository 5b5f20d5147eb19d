"""What every trainer here adds to `transformers.Trainer`: one run per output directory, metrics, steps that are skipped
where no token is kept, and examples for its report."""

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from segkernel.training.trainer.run_directory import check_run_directory, find_checkpoint

logger = logging.getLogger(__name__)


@dataclass
class SegkernelConfig(TrainingArguments):
    """`transformers.TrainingArguments`, with defaults under which a short run is logged, evaluated and saved."""

    output_dir: str = field(default="runs/segkernel", metadata={"help": "Where checkpoints, model and report go."})
    logging_steps: float = field(default=10, metadata={"help": "Log every so many steps (below 1: share of the run)."})
    logging_first_step: bool = field(default=True, metadata={"help": "Log the first step as well."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: `no`, `steps` or `epoch`."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: `no`, `steps`, `epoch` or `best`."})
    report_to: str = field(default="none", metadata={"help": "Where to log besides the console, as in `tensorboard`."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Kept off: batches hold more than the model's own arguments."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.learning_rate >= 0:
            raise ValueError(f"learning_rate: expected a number of at least 0, got {self.learning_rate}")


class SegkernelTrainer(Trainer):
    """A `transformers.Trainer` whose loss is a mean over its batch, whatever keywords the model accepts."""

    args: SegkernelConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.is_fsdp_enabled and not self.accelerator.is_fsdp2:
            raise ValueError("fsdp_version: expected 2 (`accelerate launch --fsdp_version 2`), got 1")
        # So that the Trainer divides the loss by the number of accumulation steps.
        self.model_accepts_loss_kwargs = False
        self._metrics: dict[str, list[Tensor]] = defaultdict(list)
        self._metric_names: list[str] = []
        self._kept_tokens: list[Tensor] = []
        self._skipped_steps = 0
        self.add_callback(SkipEmptySteps(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        if resume_from_checkpoint is True:
            resume_from_checkpoint = find_checkpoint(self.args.output_dir, "last")
        check_run_directory(self.args.output_dir, resuming=bool(resume_from_checkpoint))
        if resume_from_checkpoint:
            self.restore(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def restore(self, checkpoint: str) -> None:
        """Take up what a method keeps in its checkpoints beside what the Trainer does."""

    def record(self, metrics: Mapping[str, Tensor]) -> None:
        """Take note of metrics; the next log shows the mean of what was noted since the last one."""
        for name, values in metrics.items():
            self._metrics[name].append(values.detach().float().mean())

    def record_kept(self, tokens: Tensor) -> None:
        """Take note of how many tokens this batch trains on: an optimizer step over none at all is skipped."""
        self._kept_tokens.append(tokens.detach())

    def token_mean(self, values: Tensor, mask: Tensor) -> Tensor:
        """Mean of the values under a mask over the batches of all processes; 0 where no token is.

        In a loss: the mean of the processes' gradients of this is the gradient of the mean over all tokens.
        """
        count = self.accelerator.reduce(mask.sum(), reduction="sum").clamp(min=1)
        total = torch.where(mask, values, 0.0).sum()
        if not total.requires_grad:
            return self.accelerator.reduce(total, reduction="sum") / count
        return total * self.accelerator.num_processes / count

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self._metrics and "loss" in logs:
            means = torch.stack([torch.stack(values).mean() for values in self._metrics.values()])
            means = self.accelerator.reduce(means, reduction="mean")
            logs.update(zip(self._metrics, means.tolist(), strict=True))
            logs["skipped_steps"] = self._skipped_steps
            self._metrics.clear()
            self._skipped_steps = 0
        super().log(logs, *args, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        # The Trainer's own looks for `labels`, which these batches have no need of.
        with torch.no_grad():
            loss: Any = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss, None, None

    def predicted(self, metrics: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """What `prediction_step` returns of metrics per row, of which `loss` is one, for `mean_metrics`.

        Row by row, the loss as well: the Trainer's own mean of batches counts the rows that are repeated to fill up
        the last batch of a distributed run.
        """
        self._metric_names = list(metrics)
        table = torch.stack([values.float() for values in metrics.values()], dim=1)  # [B, metrics]
        return metrics["loss"].mean(), table, torch.zeros(len(table), device=table.device)

    def mean_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """The means of `predicted`'s metrics, as the Trainer's `compute_metrics`."""
        table = np.asarray(prediction.predictions)
        return dict(zip(self._metric_names, table.mean(axis=0).tolist(), strict=True))

    def report_examples(self) -> list[Any]:
        """Segmented responses for `report.html` (`segkernel.training.report.Example`)."""
        return []


class SkipEmptySteps(TrainerCallback):
    """Leaves the weights as they are in a step whose batches, over all processes, kept no token.

    A gradient of zero would not: weight decay and AdamW's momentum move the weights all the same.
    """

    def __init__(self, trainer: SegkernelTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer = self.trainer
        if not trainer._kept_tokens:
            return
        kept = trainer.accelerator.reduce(torch.stack(trainer._kept_tokens).sum(), reduction="sum")
        trainer._kept_tokens.clear()
        if not kept:
            trainer._skipped_steps += 1
            logger.warning("step %d is skipped: its batches keep no token", state.global_step + 1)
            trained: Any = trainer.model
            for parameter in trained.parameters():
                parameter.grad = None
