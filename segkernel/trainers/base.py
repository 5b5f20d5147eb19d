"""What every trainer here adds to `transformers.Trainer`: one run per output directory, and examples for its report."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from segkernel.trainers.run_directory import check_run_directory, find_checkpoint


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


class SegkernelTrainer(Trainer):
    """A `transformers.Trainer` whose loss is a mean over its batch, whatever keywords the model accepts."""

    args: SegkernelConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # So that the Trainer divides the loss by the number of accumulation steps.
        self.model_accepts_loss_kwargs = False

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        if resume_from_checkpoint is True:
            resume_from_checkpoint = find_checkpoint(self.args.output_dir, "last")
        check_run_directory(self.args.output_dir, resuming=bool(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, *args, **kwargs)

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

    def report_examples(self) -> list[Any]:
        """Segmented responses for `report.html` (`segkernel.report.Example`)."""
        return []
