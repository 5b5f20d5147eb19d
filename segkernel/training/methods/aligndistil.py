"""AlignDistil (arXiv 2503.02832): every token's distribution distilled towards one extrapolated from DPO models.

RLHF with the reward that a DPO model implies is the same as a distillation, token by token, whose teacher extrapolates
linearly between logits. The reward is contrasted: a DPO model and a *reverse* one (`segkernel train dpo --reverse`).
How far the teacher goes is chosen per token, by how far the two are apart there (`segkernel.losses.distillation`).

The loss of a pair is the mean over its chosen response's tokens of `beta / alpha_t * KL(policy || teacher_t)`. The
paper also trains on responses of the policy itself: `on_policy`, one response per prompt, sampled before each step.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import segkernel
from segkernel.losses.distillation import aligndistil_loss, distillation_loss
from segkernel.training.data.collators import ResponseCollator
from segkernel.training.data.encoding import encode_prompts
from segkernel.training.methods.dpo import summed_logprobs, with_reference
from segkernel.training.sampling import SamplingOptions, sample_responses
from segkernel.training.trainer.batches import Batch, Rows, model_logits, on_device, response_batch
from segkernel.training.trainer.preference import PreferenceConfig, PreferenceTrainer

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
            "help": "How far the teacher goes beyond the DPO model, per unit of total variation distance between the "
            "two. The authors: 20 on the data's responses, 30 on the policy's."
        },
    )
    floor: float = field(default=1e-3, metadata={"help": "How far it goes where the two agree."})
    on_policy: bool = field(
        default=False,
        metadata={
            "help": "Train on responses sampled from the policy, one per prompt and step, instead of the chosen."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta", "floor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        if not self.strength >= 0:
            raise ValueError(f"strength: expected a number of at least 0, got {self.strength}")


class AlignDistilTrainer(PreferenceTrainer):
    """AlignDistil on preference pairs, on the chosen responses or (`args.on_policy`) on sampled ones.

    `dpo_model` and `reverse_dpo_model` are frozen and read at every step: their logits are too large to be kept.
    Held-out pairs are scored off-policy, and by whether the policy prefers the chosen response more than the reference
    does; that is `ref_model`, or else `model` as it is when the trainer is made.
    """

    accuracy_metric = "rewards/accuracies"
    args: AlignDistilConfig

    def __init__(
        self,
        model: PreTrainedModel,
        args: AlignDistilConfig,
        train_dataset: Iterable[Mapping[str, Any]],
        eval_dataset: Iterable[Mapping[str, Any]] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        dpo_model: PreTrainedModel,
        reverse_dpo_model: PreTrainedModel,
        ref_model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        check_teacher("dpo_model", dpo_model, model)
        check_teacher("reverse_dpo_model", reverse_dpo_model, model)
        if args.on_policy:
            args.check_context(model)
            if not isinstance(processing_class, PreTrainedTokenizerBase):
                raise ValueError("processing_class: expected a tokenizer, to know the EOS that ends a sampled response")
        super().__init__(model, args, train_dataset, eval_dataset, processing_class, **kwargs)
        teachers: tuple[nn.Module, nn.Module] = (dpo_model, reverse_dpo_model)
        self.teachers = [teacher.to(args.device).eval() for teacher in teachers]
        self.check_logits()
        if args.on_policy:
            self.train_dataset = numbered_prompts(self.train_dataset, processing_class, args.max_prompt_length)
        if self.eval_dataset is not None:
            reference = model if ref_model is None else ref_model.to(args.device)
            self.eval_dataset = with_reference(self.eval_dataset, reference, self.data_collator, args)

    def check_logits(self) -> None:
        """Refuse a teacher that has diverged: its NaN would end up in the policy's weights."""
        batch = on_device(side(self.data_collator(self.train_dataset[:1]), 0), self.args.device)
        for name, teacher in zip(TEACHERS, self.teachers, strict=True):
            with torch.no_grad():
                logits = model_logits(teacher, batch)[batch["response_mask"]]
            if logits.isnan().any():
                raise ValueError(f"{name}: expected logits that are numbers, got NaN for the first response")

    def pair_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        if not model.training:
            return self.held_out_losses(model, batch)
        responses = self.sample(model, batch) if self.args.on_policy else side(batch, 0)
        return self.response_losses(model_logits(model, responses), responses)

    def held_out_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        logits = model_logits(model, batch)  # [2 * B, T, V]
        losses, metrics = self.response_losses(logits[::2], side(batch, 0))
        rewards = self.args.beta * (summed_logprobs(logits, batch, "response_mask") - batch["ref_response_logprobs"])
        chosen, rejected = rewards.unbind(1)
        accuracy = {"rewards/accuracies": (chosen > rejected).float(), "rewards/margins": chosen - rejected}
        return losses, {**metrics, **accuracy}

    def response_losses(self, logits: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses and metrics `[B]` of responses `[B, T]` under the policy's `logits`, `[B, T, V]`."""
        labels, mask = batch["input_ids"][:, 1:], batch["response_mask"][:, 1:]
        with torch.no_grad():
            of_teachers = [model_logits(teacher, batch)[:, :-1] for teacher in self.teachers]
        # From here on only what predicts a response token: [N, V] each.
        student, dpo, reverse = (logits[mask] for logits in (logits[:, :-1], *of_teachers))
        settings = {"beta": self.args.beta, "strength": self.args.strength, "floor": self.args.floor}
        losses, weights = aligndistil_loss(student, dpo, reverse, **settings)
        with torch.no_grad():
            tokens = labels[mask]
            logprobs, entropy = segkernel.token_logprobs(student, tokens, entropy=True)
            by_dpo, by_reverse = (segkernel.token_logprobs(of_teacher, tokens) for of_teacher in (dpo, reverse))
            per_token = {
                "kl/teacher": losses.detach() * weights / self.args.beta,
                "kl/dpo": distillation_loss(student, dpo),
                "entropy": entropy,
                "extrapolation": weights,
                "rewards/teacher": self.args.beta * (by_dpo - by_reverse),
                "logps": logprobs,
            }
        means = {name: row_means(values, mask) for name, values in per_token.items()}
        return row_means(losses, mask), {**means, "response_tokens": mask.sum(1)}

    def sample(self, model: nn.Module, batch: Batch) -> Batch:
        """One response of the policy as it is now per pair of the batch, as a batch `[B, T]`."""
        prompted = (batch["attention_mask"].bool() & ~batch["response_mask"])[:, 0]
        prompts = [ids[kept].tolist() for ids, kept in zip(batch["input_ids"][:, 0], prompted, strict=True)]
        tokenizer: Any = self.processing_class
        responses = sample_responses(
            self.accelerator.unwrap_model(model),
            prompts,
            [(self.args.seed, self.state.global_step, row) for row in batch["row"].tolist()],
            self.args,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=self.data_collator.pad_token_id,
            batch_size=len(prompts),
        )
        return response_batch(prompts, responses, ResponseCollator.of(tokenizer), prompted.device)


def side(batch: Batch, index: int) -> Batch:
    """One side of every pair, as a batch `[B, T]`."""
    names = ("input_ids", "attention_mask", "position_ids", "response_mask")
    return {name: batch[name][:, index] for name in names}


def row_means(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over each row's valid tokens, `[B]`, of values packed in the order of `mask` `[B, T]`."""
    padded = values.new_zeros(mask.shape)
    padded[mask] = values
    return padded.sum(1) / mask.sum(1)


def numbered_prompts(rows: Rows, tokenizer: PreTrainedTokenizerBase | None, max_length: int) -> Rows:
    """The rows with prompts of at most `max_length` tokens, and a number each, which keys what is sampled for it."""
    prompts = encode_prompts(rows, tokenizer, max_length=max_length, name="train_dataset")
    return [{**row, **prompt, "row": number} for number, (row, prompt) in enumerate(zip(rows, prompts, strict=True))]


def check_teacher(name: str, teacher: PreTrainedModel, model: PreTrainedModel) -> None:
    """Refuse a teacher that is trained itself, or whose logits are not over the policy's tokens."""
    if teacher is model:
        raise ValueError(f"{name}: expected a frozen model of its own, got the model that is trained")
    entries, expected = (m.config.get_text_config().vocab_size for m in (teacher, model))
    if entries != expected:
        raise ValueError(f"{name}: expected logits over the policy's {expected} tokens, got {entries}")
