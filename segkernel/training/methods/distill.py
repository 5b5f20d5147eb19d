"""On-policy distillation: a divergence from a teacher at every token of responses that the student samples.

With the student's distribution `p` and the teacher's `q` after the same prefix, the loss of a token is GKD's
generalized Jensen-Shannon divergence (arXiv 2306.13649, eq. 1),
`beta KL(q || m) + (1 - beta) KL(p || m)` with `m = beta q + (1 - beta) p`: `KL(p || q)` at beta = 1, the default, and
`KL(q || p)` at beta = 0. The samples are constants to the gradient.

Two other signals take less of the teacher's output. `top_k` takes its `top_k` most likely tokens, as from a server; all
other tokens are one outcome. `sampled` takes the probability of the sampled token: the loss is `r * (log p_old - log
q)` with the ratio `r = p / p_old` to the policy that sampled it, and its expected gradient is that of `KL(p || q)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import segkernel
from segkernel import _validate
from segkernel.ops.token_logprobs import MOST_LABELS
from segkernel.training.data.collators import ResponseCollator, collate_prompts
from segkernel.training.data.encoding import encode_prompts
from segkernel.training.data.tables import Rows
from segkernel.training.models import common_columns
from segkernel.training.models.adapters import share_frozen_weights
from segkernel.training.models.causality import check_left_padding
from segkernel.training.models.response_tokens import ResponseTokens
from segkernel.training.trainer.base import Items, Split
from segkernel.training.trainer.batches import Batch, padded, response_batch, row_means
from segkernel.training.trainer.response_logits import at_predicted, logprobs_under, predicted, response_logits
from segkernel.training.trainer.rollout import RolloutConfig, RolloutTrainer, rows_of

Signal = Literal["full", "top_k", "sampled"]


@dataclass
class DistillConfig(RolloutConfig):
    """Settings of `DistillTrainer`."""

    learning_rate: float = field(default=1e-5, metadata={"help": "AdamW's peak learning rate."})
    rollout_epochs: int = field(default=1, metadata={"help": "Passes over the minibatches of a rollout."})
    teacher: str | None = field(
        default=None, metadata={"help": "Directory of the language model to learn from.", "metavar": "DIR"}
    )
    beta: float = field(
        default=1.0,
        metadata={
            "help": "Divergence of student and teacher, from 0 to 1: 1 is the reverse KL(student || teacher), 0 the "
            "forward KL(teacher || student), and in between is the generalized Jensen-Shannon divergence of GKD."
        },
    )
    signal: Signal = field(
        default="full",
        metadata={
            "help": "Part of the teacher's distribution that a token's loss reads: `full`, `top_k` (its most likely "
            "tokens; beta 0 or 1) or `sampled` (the sampled token; beta 1)."
        },
    )
    top_k: int = field(
        default=32, metadata={"help": "Number of the teacher's tokens that `--signal top_k` reads, up to 256."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.share("beta", self.beta)
        _validate.one_of("signal", self.signal, get_args(Signal))
        if self.signal == "top_k" and self.beta not in (0, 1):
            raise ValueError(f"beta: expected 0 or 1 with signal='top_k', got {self.beta}")
        if self.signal == "sampled" and self.beta != 1:
            raise ValueError(f"beta: expected 1 with signal='sampled', got {self.beta}")
        if not 1 <= self.top_k <= MOST_LABELS:
            raise ValueError(f"top_k: expected 1 <= top_k <= {MOST_LABELS}, got {self.top_k}")


class DistillTrainer(RolloutTrainer):
    """Distills a teacher into a policy on responses that the policy samples to the prompts of `train_dataset`.

    Student and teacher are compared at the sampling temperature. Held-out prompts are answered greedily; their loss is
    the mean divergence of the whole distributions over the response's tokens, whatever the signal in training. A policy
    and a teacher with adapters on the same model share its weights in memory.

    Args:
        teacher: causal language model over the policy's tokens; frozen. Where one of them has more logits than the
            other, as models padded to different sizes, both are normalized over the columns that they share.
        model, args, train_dataset, eval_dataset, processing_class: as in `PreferenceTrainer`, with rows of prompts.
    """

    args: DistillConfig

    def __init__(
        self,
        model: PreTrainedModel,
        args: DistillConfig,
        train_dataset: Rows,
        eval_dataset: Rows | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        teacher: PreTrainedModel,
        **kwargs: Any,
    ) -> None:
        self.columns = common_columns("teacher", teacher, model, processing_class)
        frozen: Any = teacher  # transformers types `to` as a function of other arguments
        self.teacher = frozen.to(args.device).eval().requires_grad_(False)
        self.response_collator = ResponseCollator.of(processing_class)
        super().__init__(
            model,
            args,
            train_dataset,
            eval_dataset,
            processing_class,
            data_collator=collate_prompts,
            compute_metrics=self.mean_metrics,
            **kwargs,
        )
        if not self.is_fsdp_enabled:  # which shards the policy's weights
            policy: Any = self.model
            share_frozen_weights(self.teacher, policy)
        self.response_tokens = ResponseTokens.of(model, processing_class, pad_id=self.response_collator.pad_token_id)

    def frozen_models(self) -> dict[str, Any]:
        return {**super().frozen_models(), "teacher": self.teacher}

    def fit_context(self, models: Mapping[str, Any]) -> None:
        self.args.fit_context(models)
        check_left_padding(models["model"], "model")

    def encode(self, rows: Rows, split: Split) -> Dataset:
        options = self.encoding_options(split)
        return encode_prompts(rows, max_length=self.args.max_prompt_length, **options)

    # --- rollouts ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(self, prompts: list[list[int]], keys: list[tuple[int, ...]]) -> Batch:
        responses = self.sample(prompts, keys)
        batch = response_batch(prompts, responses, self.response_collator, self.args.device)
        ended = self.response_tokens.ended(responses).to(self.args.device)
        self.record({"rollout/length": batch["response_mask"].sum(1).float(), "rollout/ended": ended.float()})
        size = self.args.per_device_train_batch_size
        with self.compute_loss_context_manager():
            parts = [self.read_teacher(rows_of(batch, slice(at, at + size))) for at in range(0, len(prompts), size)]
        return batch | {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def read_teacher(self, batch: Batch) -> Batch:
        """Outputs of the teacher that are kept with a rollout: none for whole distributions, which are too large.

        Position `t` of an output belongs to the distribution that gives token `t`.
        """
        if self.args.signal == "full":
            return {}
        logits = self.common_logits(self.teacher, batch)
        if self.args.signal == "sampled":
            student = self.token_logprobs(self.student_logits(batch), batch)
            return {"teacher_logprobs": self.token_logprobs(logits, batch), "old_logprobs": student}
        ids = logits.topk(min(self.args.top_k, logits.shape[-1]), sorted=False).indices
        logprobs = segkernel.token_logprobs(logits, ids, temperature=self.args.temperature)
        mask = predicted(batch)
        return {"teacher_ids": padded(ids, mask), "teacher_top_logprobs": padded(logprobs, mask)}

    def student_logits(self, batch: Batch) -> Tensor:
        """Logits of the policy as it is during a rollout, without dropout."""
        model: Any = self.model
        was_training = model.training
        model.eval()
        logits = self.common_logits(model, batch)
        model.train(was_training)
        return logits

    def common_logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """`response_logits` `[N, V]`, of the columns that both models have."""
        return response_logits(model, batch)[:, : self.columns]

    def token_logprobs(self, logits: Tensor, batch: Batch) -> Tensor:
        """Log-probabilities of the response tokens, `[B, T]`, under logits `[N, V]`."""
        return logprobs_under(logits, batch, batch["response_mask"], temperature=self.args.temperature)

    # --- training ----------------------------------------------------------------------------------------------------

    def items(self, batch: Batch) -> Items:
        return {"tokens": batch["response_mask"].sum()}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean loss of the response tokens over all batches of an optimizer step."""
        logits = response_logits(model, inputs)
        losses, metrics = getattr(self, f"{self.args.signal}_losses")(logits[:, : self.columns], inputs)
        self.record_kept(predicted(inputs).sum())
        self.record({"divergence": losses, **metrics})
        items = num_items_in_batch or self.total_items([inputs])
        loss = self.step_share(losses, None, items["tokens"])
        return (loss, {"logits": logits}) if return_outputs else loss

    def full_losses(self, logits: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses `[N]` of the response tokens, and metrics of that shape, from whole distributions."""
        with torch.no_grad():
            teacher = self.common_logits(self.teacher, batch).to(logits.dtype)
        found = segkernel.token_divergences(
            logits,
            teacher,
            None,
            at_predicted(batch["input_ids"], batch),
            kind="js",
            beta=self.args.beta,
            temperature=self.args.temperature,
        )
        metrics = {"entropy": found.entropy, "teacher_entropy": found.other_entropy}
        assert found.logprobs is not None
        assert found.other_logprobs is not None
        return found.divergence, {**metrics, "logps": found.logprobs, "teacher_logps": found.other_logprobs}

    def top_k_losses(self, logits: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses `[N]` of the response tokens, and metrics of that shape, from the teacher's likely tokens."""
        mask = predicted(batch)
        teacher = batch["teacher_top_logprobs"][mask]
        losses = segkernel.topk_divergence(
            logits,
            batch["teacher_ids"][mask],
            teacher,
            kind="kl" if self.args.beta == 1 else "reverse_kl",
            temperature=self.args.temperature,
        )
        return losses, {"teacher_mass": teacher.exp().sum(-1)}

    def sampled_losses(self, logits: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses `[N]` of the response tokens, and metrics of that shape, from the sampled tokens."""
        names = ("input_ids", "old_logprobs", "teacher_logprobs")
        labels, old, teacher = (at_predicted(batch[name], batch) for name in names)
        logprobs = segkernel.token_logprobs(logits, labels, temperature=self.args.temperature)
        return (logprobs - old).exp() * (old - teacher), {"logps": logprobs, "teacher_logps": teacher}

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        responses = self.sample(inputs["prompts"], None)
        batch = response_batch(inputs["prompts"], responses, self.response_collator, self.args.device)
        with torch.no_grad(), self.compute_loss_context_manager():
            losses, metrics = self.full_losses(self.common_logits(model, batch), batch)
        mask = predicted(batch)
        means = {name: row_means(values, mask) for name, values in {"loss": losses, **metrics}.items()}
        ended = self.response_tokens.ended(responses).to(mask.device)
        return self.predicted({**means, "length": mask.sum(1), "ended": ended})
