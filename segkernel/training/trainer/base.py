"""Base class of the trainers.

It adds to `transformers.Trainer`: rows that are encoded and prepared once, metrics per step, one run per output
directory, optimizer steps skipped for batches whose loss mask is empty, and examples for the report.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    EvalPrediction,
    PreTrainedTokenizerBase,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import IntervalStrategy

from segkernel.training.data.options import RowOptions
from segkernel.training.data.tables import Rows
from segkernel.training.models.adapter_files import save_merged, write_card
from segkernel.training.models.adapter_options import MergeOptions
from segkernel.training.models.adapters import check_trainable, has_adapter, with_adapter
from segkernel.training.models.special_tokens import align_special_tokens
from segkernel.training.trainer.dropout import disable_dropout
from segkernel.training.trainer.option_ranges import check_json, check_numbers, check_ranges
from segkernel.training.trainer.progress_log import ProgressLog
from segkernel.training.trainer.resumable import ResumableConfig, ResumableTrainer
from segkernel.training.trainer.unused_options import UNUSED, refuse_unused

if TYPE_CHECKING:
    from peft import PeftConfig

logger = logging.getLogger(__name__)

Split = Literal["train", "eval"]
Items = Mapping[str, Tensor]  # numbers of items that a loss averages over, by name


@dataclass
class SegkernelConfig(RowOptions, MergeOptions, ResumableConfig):
    """`transformers.TrainingArguments` with defaults that log, evaluate and save a short run."""

    output_dir: str = field(
        default="runs/segkernel", metadata={"help": "Directory of the checkpoints, the model and the report."}
    )
    logging_steps: float = field(
        default=10, metadata={"help": "Steps from one log entry to the next (below 1: share of the run)."}
    )
    logging_first_step: bool = field(default=True, metadata={"help": "Log the first step as well."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: `no`, `steps` or `epoch`."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: `no`, `steps`, `epoch` or `best`."})
    report_to: str = field(
        default="none", metadata={"help": "Logging integrations besides the console, such as `tensorboard`."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Kept off: batches hold more than the model's own arguments."}
    )
    disable_dropout: bool = field(
        default=True,
        metadata={
            "help": "Train without dropout: losses compare the model with a frozen or earlier one, which runs without."
        },
    )

    unused_options: ClassVar[Mapping[str, str]] = UNUSED  # with the reason

    def __post_init__(self) -> None:
        check_ranges(self)
        check_numbers(self)
        check_json(self)
        refuse_unused(self, self.unused_options)
        # Without an accelerator transformers refuses bfloat16 unless `use_cpu` is set, although a CPU computes in it.
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True
        super().__post_init__()


class SegkernelTrainer(ResumableTrainer):
    """`transformers.Trainer` whose loss is a mean over its batch, whatever keywords the model accepts.

    Rows pass through two hooks, each once: `encode` (strings to token ids) before the model is placed on its device,
    and `prepare` (columns that frozen models give) after it. With `args.disable_dropout` the dropout rates of `model`
    are set to 0 in place.

    Args:
        model: the model to train, or a `peft.PeftModel`, whose adapter is trained.
        peft_config: config of a new adapter, which is trained in place of the model's own weights.
        args, train_dataset, eval_dataset, processing_class, **kwargs: as in `transformers.Trainer`.
    """

    args: SegkernelConfig
    train_dataset: Dataset
    eval_dataset: Dataset | None

    def __init__(
        self,
        model: Any,
        args: SegkernelConfig,
        train_dataset: Rows,
        eval_dataset: Rows | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        peft_config: "PeftConfig | None" = None,
        **kwargs: Any,
    ) -> None:
        if peft_config is not None:
            set_seed(args.seed)  # a new adapter is the same whenever the run is started or resumed
            model = with_adapter(model, peft_config)
        check_trainable(model)
        if args.merge_adapter and not any(map(has_adapter, model.modules())):
            raise ValueError("merge_adapter: expected a model with an adapter, got one without")
        self.args, self.processing_class = args, processing_class  # read by `encode`
        self.fit_context({"model": model, **self.frozen_models()})
        encoded = self.encode(train_dataset, "train")
        if eval_dataset is None and args.eval_strategy == IntervalStrategy.EPOCH:  # the default
            args.eval_strategy = IntervalStrategy.NO
        if args.disable_dropout:
            disable_dropout(model)
        super().__init__(
            model=model,
            args=args,
            train_dataset=encoded,
            eval_dataset=None if eval_dataset is None else self.encode(eval_dataset, "eval"),
            processing_class=processing_class,
            **kwargs,
        )
        if isinstance(processing_class, PreTrainedTokenizerBase) and hasattr(model, "config"):
            align_special_tokens(model, processing_class)
        if self.is_fsdp_enabled and not self.accelerator.is_fsdp2:
            raise ValueError("fsdp_version: expected 2 (`accelerate launch --fsdp_version 2`), got 1")
        # The losses are divided by the items of a whole step (`step_share`), so the Trainer leaves them as they are.
        self.model_accepts_loss_kwargs = True
        self._metrics: dict[str, list[Tensor]] = defaultdict(list)
        self._metric_names: list[str] = []
        self._kept_tokens: list[Tensor] = []
        self._skipped_steps = 0
        self.add_callback(SkipEmptySteps(self))
        # In a notebook the Trainer's own table stays.
        if self.pop_callback(ProgressCallback) or self.pop_callback(PrinterCallback):
            self.add_callback(ProgressLog())
        self.train_dataset = self.prepare(self.train_dataset, "train")
        if self.eval_dataset is not None:
            self.eval_dataset = self.prepare(self.eval_dataset, "eval")

    def frozen_models(self) -> dict[str, Any]:
        """Frozen models and scorers that read the rows as well, by their names in error messages."""
        return {name: vars(self).get(name) for name in ("ref_model", "reward_model")}

    def fit_context(self, models: Mapping[str, Any]) -> None:
        """Fit the options for lengths to the models' contexts, before rows are encoded; subclasses implement it."""

    def encode(self, rows: Rows, split: Split) -> Dataset:
        """Data set of token ids; the rows as they are unless a subclass encodes them.

        Of the trainer's attributes only `args` and `processing_class` exist at this point.
        """
        return rows

    def encoding_options(self, split: Split) -> dict[str, Any]:
        """Options that the functions of `segkernel.training.data.encoding` share."""
        return {
            "tokenizer": self.processing_class,
            "name": f"{split}_dataset",
            "progress": not self.args.disable_tqdm,
            "skip_bad_rows": self.args.skip_bad_rows,
        }

    def prepare(self, dataset: Dataset, split: Split) -> Dataset:
        """Data set with the columns that are computed once, before training; subclasses extend it.

        The training rows come first.
        """
        return dataset

    # --- means over an optimizer step --------------------------------------------------------------------------------

    def items(self, batch: dict[str, Any]) -> Items:
        """Numbers of items in a batch that its loss averages over: of pairs, or of tokens under a mask."""
        raise NotImplementedError

    def total_items(self, batches: Sequence[dict[str, Any]]) -> Items:
        """Sums of `items` over these batches and all processes."""
        counts = [self.items(batch) for batch in batches]
        names = counts[0].keys() if counts else ()
        sums = {name: torch.stack([count[name] for count in counts]).sum().to(self.args.device) for name in names}
        return {name: self.accelerator.reduce(number, reduction="sum") for name, number in sums.items()}

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The micro-batches of an optimizer step, and their `total_items`: `num_items_in_batch` of `compute_loss`."""
        batches = list(islice(epoch_iterator, num_batches))
        return batches, self.total_items(batches)

    def step_share(self, losses: Tensor, mask: Tensor | None, total: Tensor) -> Tensor:
        """Share of a batch in the mean loss of an optimizer step: the gradients of the shares add up to that mean's.

        So neither the number of micro-batches nor that of processes changes a step.

        Args:
            losses: any shape, of one batch.
            mask: bool of that shape, the items that count; default: all.
            total: number of such items in the step's batches on all processes (`total_items`).
        """
        summed = losses.sum() if mask is None else torch.where(mask, losses, 0.0).sum()
        # The gradients of the processes are averaged.
        share: Tensor = summed * self.accelerator.num_processes / total.clamp(min=1)
        return share

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if self.args.merge_adapter and not _internal_call and self.args.should_save:
            self.save_merged(output_dir or self.args.output_dir)

    def save_merged(self, output_dir: str) -> None:
        """Save the model with its adapter merged into its weights."""
        save_merged(self.model, output_dir)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            write_card(output_dir or self.args.output_dir, self.model)
        super()._save(output_dir, state_dict)

    # --- metrics -----------------------------------------------------------------------------------------------------

    def record(self, metrics: Mapping[str, Tensor], mask: Tensor | None = None) -> None:
        """Add metrics to the next log entry, which shows their means over all values since the last one.

        Args:
            metrics: values by name, any shape.
            mask: bool of that shape, the values that count; default: all.
        """
        for name, values in metrics.items():
            counted = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
            total = torch.where(counted, values.detach().double(), 0.0).sum()
            self._metrics[name].append(torch.stack([total, counted.sum()]))

    def record_kept(self, tokens: Tensor) -> None:
        """Count the tokens that this batch trains on; an optimizer step over zero tokens is skipped."""
        self._kept_tokens.append(tokens.detach())

    def token_mean(self, values: Tensor, mask: Tensor) -> Tensor:
        """Mean of the values under a mask over the batches of all processes; 0 if the mask is empty."""
        sums = torch.stack([torch.where(mask, values, 0.0).sum(), mask.sum()])
        total, count = self.accelerator.reduce(sums, reduction="sum")
        mean: Tensor = total / count.clamp(min=1)
        return mean

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self._metrics and "loss" in logs:
            sums = torch.stack([torch.stack(values).sum(0) for values in self._metrics.values()])  # [metrics, 2]
            totals, counts = self.accelerator.reduce(sums, reduction="sum").unbind(1)
            logs.update(zip(self._metrics, (totals / counts.clamp(min=1)).tolist(), strict=True))
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
        # The Trainer's own version reads `labels`, which these batches lack.
        with torch.no_grad():
            loss: Any = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss, None, None

    def predicted(self, metrics: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return value of `prediction_step` for metrics per row, `loss` among them, that `mean_metrics` reads.

        The loss is kept per row because the Trainer's own mean over batches counts the rows that are repeated to fill
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
    """Skips the optimizer step if its batches, over all processes, have no token in the loss mask.

    A gradient of zero is not enough: weight decay and AdamW's momentum still move the weights.
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
            logger.warning("step %d is skipped: no token of its batches is trained on", state.global_step + 1)
            trained: Any = trainer.model
            for parameter in trained.parameters():
                parameter.grad = None
