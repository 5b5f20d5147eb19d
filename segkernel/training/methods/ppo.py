"""Baseline PPO (arXiv 1707.06347) with a sparse end-of-sequence reward.

Variants subclass `PPOTrainer` and override `token_rewards` and `policy_mask`. Every per-token tensor is `[B, T]` over
prompts and responses; position `t` holds the log-probability and the reward of token `t`, and the value of the prefix
before it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

import segkernel
from segkernel import _validate
from segkernel.losses import ppo_policy_loss, ppo_value_loss
from segkernel.training.data.collators import ResponseCollator, collate_prompts
from segkernel.training.data.encoding import encode_prompts, encode_splits
from segkernel.training.models.adapters import has_adapter
from segkernel.training.models.causality import check_left_padding
from segkernel.training.models.response_tokens import ResponseTokens
from segkernel.training.report_examples import rollout_samples
from segkernel.training.rewards.functions import check_scorer
from segkernel.training.rewards.prefix_scores import finite_responses, last_position
from segkernel.training.rewards.reward_model import prefix_scorer
from segkernel.training.rounding import rounding_error
from segkernel.training.trainer.actor_critic import ActorCritic, actor_critic
from segkernel.training.trainer.base import Items
from segkernel.training.trainer.batches import Batch, model_inputs, response_batch
from segkernel.training.trainer.reference import start_of
from segkernel.training.trainer.response_logits import logprobs_and_entropy, logprobs_under, response_logits
from segkernel.training.trainer.rollout import RolloutConfig, RolloutTrainer, rows_of

if TYPE_CHECKING:
    from peft import PeftConfig


@dataclass
class PPOConfig(RolloutConfig):
    """Settings of `PPOTrainer`."""

    learning_rate: float = field(default=1e-5, metadata={"help": "AdamW's peak learning rate."})
    clip_range: float = field(default=0.2, metadata={"help": "Bound on the change of a token's probability ratio."})
    value_clip_range: float = field(default=0.2, metadata={"help": "Bound on the change of a value."})
    value_coef: float = field(default=0.5, metadata={"help": "Weight of the value loss."})
    kl_coef: float = field(
        default=0.05,
        metadata={"help": "Weight of the KL penalty: of the log-ratio to the reference model, in nats, per token."},
    )
    gamma: float = field(default=1.0, metadata={"help": "Discount per token."})
    gae_lambda: float = field(default=0.95, metadata={"help": "Lambda of generalized advantage estimation."})
    advantage_baseline: str = field(
        default="values",
        metadata={
            "help": "What is subtracted from the return of a token: the value before it (`values`), or the mean of all "
            "returns of the `rollout`, as in REINFORCE++ (arXiv 2501.03262). The value model is trained either way, "
            "since returns with gae_lambda < 1 contain values."
        },
    )
    whiten_advantages: bool = field(
        default=True,
        metadata={"help": "Scale the advantages of a rollout to mean 0 and standard deviation 1; equal ones become 0."},
    )
    missing_eos_penalty: float = field(
        default=0.0,
        metadata={"help": "Penalty on the score of a response that was cut off before its end."},
    )
    report_responses: int = field(
        default=6, metadata={"help": "Responses of the last rollout that report.html shows: its best and its worst."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.one_of("advantage_baseline", self.advantage_baseline, ("values", "rollout"))
        for name in ("clip_range", "value_clip_range"):
            _validate.positive(name, getattr(self, name))
        for name in ("value_coef", "kl_coef", "missing_eos_penalty"):
            _validate.weight(name, getattr(self, name))
        for name in ("gamma", "gae_lambda"):
            _validate.share(name, getattr(self, name))
        _validate.minimum("report_responses", self.report_responses, 0)


class PPOTrainer(RolloutTrainer):
    """PPO on the prompts of `train_dataset`.

    Args:
        reward_model: model with one output per token, read at a response's last token, or a reward function: of
            `prompts` and `responses`, lists of strings, which returns one score per response or a list of token rewards
            per response; or of a batch (`segkernel.training.rewards.functions`).
        ref_model: reference of the KL penalty; default: `model` as it is when the trainer is made.
        value_model: model with one output per token; default: a copy of the reward model or, if that is a function,
            the policy's body with a new head. With an adapter on the policy, the default has one of its own, and shares
            the frozen weights of the model it is a copy of. Frozen layers stay frozen, unless all are.
        peft_config: config of a new adapter on the policy, and of one on the value model.
    """

    reads_every_prefix = False  # whether the reward model's scores are read within a response
    args: PPOConfig
    model: ActorCritic

    def __init__(
        self,
        model: PreTrainedModel,
        args: PPOConfig,
        train_dataset: Iterable[Mapping[str, Any]],
        eval_dataset: Iterable[Mapping[str, Any]] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        reward_model: nn.Module | Callable[..., Any],
        ref_model: nn.Module | None = None,
        value_model: PreTrainedModel | None = None,
        peft_config: "PeftConfig | None" = None,
        **kwargs: Any,
    ) -> None:
        args.fit_context(
            {"model": model, "reward_model": reward_model, "ref_model": ref_model, "value_model": value_model}
        )
        check_left_padding(model, "model")
        train, held_out = encode_splits(
            encode_prompts,
            train_dataset,
            eval_dataset,
            processing_class,
            args.max_prompt_length,
            skip_bad_rows=args.skip_bad_rows,
        )
        if peft_config is not None:
            set_seed(args.seed)
        super().__init__(
            model=actor_critic(model, value_model, reward_model, peft_config),
            args=args,
            data_collator=collate_prompts,
            train_dataset=train,
            eval_dataset=held_out,
            processing_class=processing_class,
            compute_metrics=self.mean_metrics,
            **kwargs,
        )
        if self.is_fsdp_enabled and any(map(has_adapter, (self.model.policy, self.model.value))):
            # The reference and the value model share weights with other models, which FSDP would shard once only.
            raise ValueError("fsdp: expected models without adapters, got one with an adapter (DDP trains them)")
        reference = start_of(self.model.policy) if ref_model is None else ref_model
        self.reference = reference.to(args.device).eval().requires_grad_(False)
        self.response_collator = ResponseCollator.of(processing_class)
        self.scorer = prefix_scorer(reward_model, args.device, processing_class, every_prefix=self.reads_every_prefix)
        check_scorer(self.scorer, self.train_dataset[:2]["prompt_ids"], self.response_collator, args.device)
        self.response_tokens = ResponseTokens.of(model, processing_class, pad_id=self.response_collator.pad_token_id)

    # --- overridden by variants --------------------------------------------------------------------------------------

    def token_rewards(self, batch: Batch) -> Tensor:
        """Reward per token, `[B, T]`, before the KL penalty; in PPO the sequence's reward at its last token."""
        return segkernel.redistribute(
            batch["scores"], batch["response_mask"], sequence_rewards=batch["sequence_rewards"], mix=0.0
        )

    def policy_mask(self, batch: Batch) -> Tensor:
        """Boolean `[B, T]`: tokens of a rollout in the policy loss; in PPO the whole response.

        `batch` holds the outputs of `evaluate_responses`, and `keys` `[B, 3]`: seed, rollout and row of each response.
        """
        return batch["response_mask"]

    def trained_tokens(self, logits: Tensor, batch: Batch) -> Tensor:
        """Boolean `[B, T]`: tokens of a minibatch in the policy loss of this update; in PPO those of `policy_mask`.

        `logits` `[N, V]` are the current policy's at the response tokens (`response_logits`).
        """
        return batch["policy_mask"]

    # --- rollouts ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(self, prompts: list[list[int]], keys: list[tuple[int, ...]]) -> Batch:
        batch = self.evaluate_responses(prompts, self.sample(prompts, keys))
        mask = batch["response_mask"]
        batch["keys"] = torch.tensor(keys, device=mask.device)
        batch["policy_mask"] = self.policy_mask(batch) & mask
        rewards = self.token_rewards(batch) - self.args.kl_coef * (batch["logprobs"] - batch["ref_logprobs"])
        advantages, returns = segkernel.gae(
            rewards, batch["values"], mask, gamma=self.args.gamma, lam=self.args.gae_lambda
        )
        if self.args.advantage_baseline == "rollout":
            advantages = torch.where(mask, returns - self.token_mean(returns, mask), 0.0)
        if self.args.whiten_advantages:
            computed = torch.cat([values[mask] for values in (advantages, returns, batch["values"])])
            advantages = self.whiten(advantages, self.rounding_error(computed), mask)
        self.record({f"rollout/{name}": values for name, values in self.describe(batch).items()})
        per_token = {"entropy": batch["entropy"], "token_reward": rewards}
        self.record({f"rollout/{name}": values for name, values in per_token.items()}, mask)
        kept = ("input_ids", "attention_mask", "position_ids", "response_mask", "policy_mask", "logprobs", "values")
        return {
            **{name: batch[name] for name in kept},
            "advantages": advantages,
            "returns": returns,
            "token_rewards": rewards,
            # NaN marks a response that trains nothing.
            "sequence_rewards": torch.where(batch["finite"], batch["sequence_rewards"], torch.nan),
        }

    def whiten(self, advantages: Tensor, error: Tensor, mask: Tensor) -> Tensor:
        """Advantages of a rollout scaled to mean 0 and standard deviation 1; all 0 if they are equal.

        They are equal if their deviation is within `error`, the rounding error of what they were computed from.
        """
        mean = self.token_mean(advantages, mask)
        deviation = self.token_mean((advantages - mean).square(), mask).sqrt()
        return torch.where(mask & (deviation > error), (advantages - mean) / deviation, 0.0)

    def rounding_error(self, values: Tensor) -> Tensor:
        """`rounding_error` over the values of all processes."""
        errors: Tensor = self.accelerator.gather(rounding_error(values).reshape(1))
        return errors.max()

    def evaluate_responses(self, prompts: list[list[int]], responses: list[list[int]]) -> Batch:
        """Batch of responses with their `scores`, `sequence_rewards`, `logprobs`, `ref_logprobs` and `values`.

        The `response_mask` of a response with a score that is not finite is cleared, so it trains nothing.

        Raises:
            FloatingPointError: no response of any process has finite scores.
        """
        batch = response_batch(prompts, responses, self.response_collator, self.args.device)
        was_training = self.model.training
        self.model.eval()
        size = self.args.per_device_train_batch_size
        parts = [self._read(rows_of(batch, slice(at, at + size))) for at in range(0, len(prompts), size)]
        batch |= {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        self.model.train(was_training)
        mask = batch["response_mask"]
        ended = self.response_tokens.ended(responses).to(mask.device)
        finite = finite_responses(batch["scores"], batch)
        if not self.accelerator.reduce(finite.sum(), reduction="sum"):
            raise FloatingPointError("reward_model: expected finite scores, got NaN or infinity for a whole rollout")
        last, penalty = last_position(mask)[:, None], self.args.missing_eos_penalty * (~ended[:, None]).float()
        batch["scores"] = torch.where(finite[:, None], batch["scores"], 0.0).scatter_add(1, last, -penalty)
        batch["sequence_rewards"] = batch["scores"].gather(1, last)[:, 0]
        batch["response_mask"] = mask & finite[:, None]
        return {**batch, "ended": ended, "finite": finite}

    def _read(self, batch: Batch) -> Batch:
        """Outputs of policy, value model, reference and reward model on one part of a batch."""
        with self.compute_loss_context_manager():
            logits, values = self.model(**model_inputs(batch))
            logprobs, entropy = logprobs_and_entropy(
                logits, batch, batch["response_mask"], temperature=self.args.temperature
            )
            reference = self.read_reference(batch)
            scores = self.scorer(batch)
        values = F.pad(values[:, :-1], (1, 0))
        return {"logprobs": logprobs, "entropy": entropy, "values": values, "scores": scores, **reference}

    def read_reference(self, batch: Batch) -> Batch:
        """Outputs of the reference model on one part of a batch, `[B, T]` each; at least `ref_logprobs`."""
        logits = response_logits(self.reference, batch)
        logprobs = logprobs_under(logits, batch, batch["response_mask"], temperature=self.args.temperature)
        return {"ref_logprobs": logprobs}

    def describe(self, batch: Batch) -> Batch:
        """Metrics per response, `[B]` each; the reward of one with scores that are not finite is 0."""
        mask = batch["response_mask"]
        kl = batch["logprobs"] - batch["ref_logprobs"]
        return {
            "reward": batch["sequence_rewards"],
            "kl": torch.where(mask, kl, 0.0).sum(1),
            "length": mask.sum(1).float(),
            "ended": batch["ended"].float(),
            "nonfinite_rewards": (~batch["finite"]).float(),
        }

    # --- updates -----------------------------------------------------------------------------------------------------

    def items(self, batch: Batch) -> Items:
        return {"policy": batch["policy_mask"].sum(), "response": batch["response_mask"].sum()}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        logits, values = model(**model_inputs(inputs))
        mask, response = self.trained_tokens(logits.detach(), inputs), inputs["response_mask"]
        logprobs = logprobs_under(logits, inputs, mask, temperature=self.args.temperature)
        # Zero values outside the mask so that NaNs there cannot reach the gradient.
        old_logprobs, advantages = (torch.where(mask, inputs[name], 0.0) for name in ("logprobs", "advantages"))
        old_values, returns = (torch.where(response, inputs[name], 0.0) for name in ("values", "returns"))
        values = torch.where(response, F.pad(values[:, :-1], (1, 0)), 0.0)
        losses, clipped = ppo_policy_loss(logprobs, old_logprobs, advantages, clip_range=self.args.clip_range)
        value_losses = ppo_value_loss(values, old_values, returns, clip_range=self.args.value_clip_range)
        self.record_kept(mask.sum())
        self.record({"loss/policy": losses}, mask)
        self.record({"loss/value": value_losses, "kept": mask}, response)
        self.record({"clipped": clipped, "approximate_kl": old_logprobs - logprobs}, mask)
        items = num_items_in_batch or self.total_items([inputs])
        value_loss = self.step_share(value_losses, response, items["response"])
        loss = self.step_share(losses, mask, items["policy"]) + self.args.value_coef * value_loss
        return (loss, {"logits": logits, "values": values}) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Metrics of greedy responses to held-out prompts; the loss is the negative reward."""
        with torch.no_grad():
            metrics = self.describe(self.evaluate_responses(inputs["prompts"], self.sample(inputs["prompts"], None)))
        return self.predicted({"loss": -metrics["reward"], **metrics})

    # --- report ------------------------------------------------------------------------------------------------------

    def report_examples(self) -> list[Any]:
        """Best and worst responses of the last rollout, colored by their advantages."""
        if not isinstance(self.processing_class, PreTrainedTokenizerBase) or not self.rollouts.rollout:
            return []
        return rollout_samples(self.rollouts.rollout, self.args.report_responses, self.processing_class)

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        directory = output_dir or self.args.output_dir
        self.accelerator.unwrap_model(self.model).save_pretrained(directory, state_dict)
        if isinstance(self.processing_class, PreTrainedTokenizerBase):
            self.processing_class.save_pretrained(directory)

    def save_merged(self, output_dir: str) -> None:
        self.accelerator.unwrap_model(self.model).save_merged(output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.accelerator.unwrap_model(self.model).load_pretrained(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None  # since one was evaluated
        self._load_from_checkpoint(self.state.best_model_checkpoint)
