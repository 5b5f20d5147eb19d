"""AlignDistil (arXiv 2503.02832): distillation of each token's distribution from one extrapolated from DPO models.

RLHF with the reward that a DPO model implies equals a token-level distillation whose teacher extrapolates linearly
between logits. The reward is contrasted: a DPO model and a *reverse* one (`segkernel train dpo --reverse`). The
extrapolation weight of a token grows with the distance of the two models there (`segkernel.losses.distillation`).

The loss of a pair is the mean over its chosen response's tokens of `beta / alpha_t * KL(policy || teacher_t)`. The
paper also trains on responses of the policy itself: `on_policy`, one response per prompt, sampled before each step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import segkernel
from segkernel import _validate
from segkernel.losses.distillation import aligndistil_loss
from segkernel.training.data.collators import ResponseCollator
from segkernel.training.data.encoding import numbered_prompts
from segkernel.training.data.tables import Rows
from segkernel.training.models import check_teacher
from segkernel.training.models.adapters import share_frozen_weights
from segkernel.training.models.causality import check_left_padding
from segkernel.training.models.response_tokens import ResponseTokens
from segkernel.training.sampling import SamplingOptions, sample_responses
from segkernel.training.trainer.base import Split
from segkernel.training.trainer.batches import Batch, on_device, response_batch, row_means, side
from segkernel.training.trainer.preference import PreferenceConfig, PreferenceTrainer
from segkernel.training.trainer.reference import summed_logprobs, with_reference
from segkernel.training.trainer.response_logits import at_predicted, predicted, response_logits

TEACHERS = ("dpo_model", "reverse_dpo_model")


@dataclass
class AlignDistilConfig(SamplingOptions, PreferenceConfig):
    """Settings of `AlignDistilTrainer`."""

    learning_rate: float = field(default=2e-5, metadata={"help": "AdamW's peak learning rate."})
    dpo_model: str | None = field(
        default=None, metadata={"help": "Directory of a model made with `segkernel train dpo`."}
    )
    reverse_dpo_model: str | None = field(
        default=None, metadata={"help": "Directory of a model made with `segkernel train dpo --reverse`."}
    )
    beta: float = field(default=0.1, metadata={"help": "The beta that the two DPO models were trained with."})
    strength: float = field(
        default=20.0,
        metadata={
            "help": "Extrapolation of the teacher beyond the DPO model, per unit of total variation distance between "
            "the two models. The authors use 20 on the data's responses and 30 on the policy's."
        },
    )
    floor: float = field(default=1e-3, metadata={"help": "Extrapolation where the two models agree."})
    on_policy: bool = field(
        default=False,
        metadata={
            "help": "Train on responses sampled from the policy, one per prompt and step, instead of the chosen."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta", "floor"):
            _validate.positive(name, getattr(self, name))
        _validate.weight("strength", self.strength)


class AlignDistilTrainer(PreferenceTrainer):
    """AlignDistil on preference pairs, on the chosen responses or (`args.on_policy`) on sampled ones.

    The teachers are frozen and run at every step: their logits are too large to be kept. Held-out pairs are scored
    off-policy; their accuracy is whether the policy prefers the chosen response more than the reference does. A policy
    and teachers with adapters on the same model share its weights in memory.

    Args:
        dpo_model: model trained by DPO.
        reverse_dpo_model: model trained by DPO with `reverse=True`.
        ref_model: the reference; default: `model` as it is when the trainer is made.
        *rest, **kwargs: arguments of `PreferenceTrainer` after `model` and `args`.
    """

    accuracy_metric = "rewards/accuracies"
    args: AlignDistilConfig

    def __init__(
        self,
        model: PreTrainedModel,
        args: AlignDistilConfig,
        *rest: Any,
        dpo_model: PreTrainedModel,
        reverse_dpo_model: PreTrainedModel,
        ref_model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        check_teacher("dpo_model", dpo_model, model)
        check_teacher("reverse_dpo_model", reverse_dpo_model, model)
        teachers: tuple[Any, Any] = (dpo_model, reverse_dpo_model)
        self.teachers = [teacher.to(args.device).eval().requires_grad_(False) for teacher in teachers]
        self.ref_model = ref_model
        super().__init__(model, args, *rest, **kwargs)
        self.ref_model = None  # its log-probabilities are columns by now
        if not self.is_fsdp_enabled:  # which shards the policy's weights
            policy: Any = self.model
            for teacher in self.teachers:
                share_frozen_weights(teacher, policy)
        tokenizer: Any = self.processing_class
        self.response_tokens = ResponseTokens.of(model, tokenizer, pad_id=self.data_collator.pad_token_id)

    def frozen_models(self) -> dict[str, Any]:
        return {**super().frozen_models(), **dict(zip(TEACHERS, self.teachers, strict=True))}

    def fit_context(self, models: Mapping[str, Any]) -> None:
        super().fit_context(models)
        if self.args.on_policy:
            self.args.fit_context(models)
            check_left_padding(models["model"], "model")

    def encode(self, rows: Rows, split: Split) -> Dataset:
        if not self.args.on_policy:
            return super().encode(rows, split)
        if not isinstance(self.processing_class, PreTrainedTokenizerBase):
            raise ValueError("processing_class: expected a tokenizer, whose EOS ends a sampled response, got none")
        pairs = super().encode(rows, split)
        return pairs if split == "eval" else numbered_prompts(pairs, self.processing_class, self.args.max_prompt_length)

    def prepare(self, dataset: Dataset, split: Split) -> Dataset:
        dataset = super().prepare(dataset, split)
        if split == "train":
            self.check_logits(dataset)
            return dataset
        model: Any = self.model
        reference = model if self.ref_model is None else self.ref_model.to(self.args.device)
        return with_reference(dataset, reference, self.data_collator, self.args)

    def check_logits(self, pairs: Dataset) -> None:
        """Refuse a teacher that has diverged: its NaN would end up in the policy's weights."""
        batch = on_device(side(self.data_collator([pairs[0]]), 0), self.args.device)
        for name, teacher in zip(TEACHERS, self.teachers, strict=True):
            with torch.no_grad():
                logits = response_logits(teacher, batch)
            if logits.isnan().any():
                raise ValueError(f"{name}: expected logits that are numbers, got NaN for the first response")

    def pair_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if not model.training:
            return self.held_out_losses(model, batch)
        responses = self.sample(model, batch) if self.args.on_policy else side(batch, 0)
        return self.response_losses(response_logits(model, responses), responses)

    def held_out_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits = response_logits(model, batch)
        of_chosen = torch.zeros_like(batch["response_mask"])
        of_chosen[:, 0] = True
        losses, metrics = self.response_losses(logits[at_predicted(of_chosen, batch)], side(batch, 0))
        rewards = self.args.beta * (
            summed_logprobs(logits, batch, batch["response_mask"]) - batch["ref_response_logprobs"]
        )
        chosen, rejected = rewards.unbind(1)
        accuracy = {"rewards/accuracies": (chosen > rejected).float(), "rewards/margins": chosen - rejected}
        return losses, {**metrics, **accuracy}

    def response_losses(self, student: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses and metrics `[B]` of responses `[B, T]` under the policy's logits `[N, V]` (`response_logits`)."""
        with torch.no_grad():
            dpo, reverse = (response_logits(teacher, batch) for teacher in self.teachers)
        settings = {"beta": self.args.beta, "strength": self.args.strength, "floor": self.args.floor}
        losses, weights = aligndistil_loss(student, dpo, reverse, **settings)
        with torch.no_grad():
            tokens, mask = at_predicted(batch["input_ids"], batch), predicted(batch)
            from_dpo = segkernel.token_divergences(student, dpo.to(student.dtype), None, tokens)
            by_reverse = segkernel.token_logprobs(reverse, tokens)
            assert from_dpo.other_logprobs is not None
            assert from_dpo.logprobs is not None
            per_token = {
                "kl/teacher": losses.detach() * weights / self.args.beta,
                "kl/dpo": from_dpo.divergence,
                "entropy": from_dpo.entropy,
                "extrapolation": weights,
                "rewards/teacher": self.args.beta * (from_dpo.other_logprobs - by_reverse),
                "logps": from_dpo.logprobs,
            }
        means = {name: row_means(values, mask) for name, values in per_token.items()}
        return row_means(losses, mask), {**means, "response_tokens": mask.sum(1)}

    def sample(self, model: nn.Module, batch: Batch) -> Batch:
        """Sample one response of the current policy for each pair of the batch; returns a batch `[B, T]`."""
        prompted = (batch["attention_mask"].bool() & ~batch["response_mask"])[:, 0]
        prompts = [ids[kept].tolist() for ids, kept in zip(batch["input_ids"][:, 0], prompted, strict=True)]
        tokenizer: Any = self.processing_class
        responses = sample_responses(
            self.accelerator.unwrap_model(model),
            prompts,
            [(self.args.seed, self.state.global_step, row) for row in batch["row"].tolist()],
            self.args,
            tokens=self.response_tokens,
            batch_size=len(prompts),
        )
        return response_batch(prompts, responses, ResponseCollator.of(tokenizer), prompted.device)
