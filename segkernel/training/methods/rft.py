"""Rejection-sampling fine-tuning: the likelihood of the best of several responses to every prompt.

The responses are sampled and scored once, before training, with the model as it is then: what follows is supervised.
A row may carry `mask` (bools over its response tokens); the loss then sees those tokens only. Plain rejection
sampling's rows carry none, so every response token counts.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import segkernel
from segkernel.training.data.collators import ResponseCollator
from segkernel.training.data.encoding import encode_prompts, encode_splits
from segkernel.training.rewards.prefix_scores import PrefixScorer, finite_responses, sequence_scores
from segkernel.training.rewards.reward_model import prefix_scorer
from segkernel.training.sampling import SamplingOptions, sample_responses
from segkernel.training.trainer.base import SegkernelConfig, SegkernelTrainer
from segkernel.training.trainer.batches import Batch, Rows, map_batches, model_logits, response_batch

logger = logging.getLogger(__name__)


@dataclass
class RFTConfig(SamplingOptions, SegkernelConfig):
    """Settings of `RFTTrainer`."""

    learning_rate: float = field(default=2e-5, metadata={"help": "AdamW's peak learning rate."})
    samples: int = field(default=8, metadata={"help": "Responses sampled per prompt."})
    keep: int = field(default=1, metadata={"help": "How many of them are trained on: those of the highest reward."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 1:
            raise ValueError(f"samples: expected at least 1, got {self.samples}")
        if not 1 <= self.keep <= self.samples:
            raise ValueError(f"keep: expected at least 1 and at most samples={self.samples}, got {self.keep}")


class RFTTrainer(SegkernelTrainer):
    """Trains a policy on the best of its own responses to the prompts of `train_dataset`.

    `reward_model` is a model with one output per token, read at a response's last token, or any function from a batch
    of `ResponseCollator` to scores of every prefix, `[B, T]`. Held-out prompts are answered greedily by the policy as
    it is then; the loss reported for them is minus their reward.
    """

    args: RFTConfig
    train_dataset: Rows

    def __init__(
        self,
        model: PreTrainedModel,
        args: RFTConfig,
        train_dataset: Iterable[Mapping[str, Any]],
        eval_dataset: Iterable[Mapping[str, Any]] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        reward_model: nn.Module | PrefixScorer,
        **kwargs: Any,
    ) -> None:
        args.check_context(model)
        prompts, held_out = encode_splits(
            encode_prompts, train_dataset, eval_dataset, processing_class, args.max_prompt_length
        )
        super().__init__(
            model=model,
            args=args,
            data_collator=self.collate,
            train_dataset=prompts,
            eval_dataset=held_out,
            processing_class=processing_class,
            compute_metrics=self.mean_metrics,
            **kwargs,
        )
        self.scorer = prefix_scorer(reward_model, args.device)
        self.response_collator = ResponseCollator.of(processing_class)
        self.eos_token_id = None if processing_class is None else processing_class.eos_token_id
        samples = map_batches(self.score, self.sample_prompts(prompts), self.response_collator, args, "rewards")
        self.log_samples(samples)
        self.train_dataset = self.accept([row for row in samples if math.isfinite(row["reward"])])

    # --- before training ---------------------------------------------------------------------------------------------

    def sample_prompts(self, prompts: Rows) -> Rows:
        """Every prompt's `args.samples` responses; the processes of a distributed run share them."""
        keys = [(prompt, number) for prompt in range(len(prompts)) for number in range(self.args.samples)]
        mine = keys[self.args.process_index :: self.args.world_size]
        responses = self.sample(
            [prompts[prompt]["prompt_ids"] for prompt, _ in mine],
            [(self.args.seed, *key) for key in mine],
            description=None if self.args.disable_tqdm else "samples",
        )
        found = dict(gather_object(list(zip(mine, responses, strict=True))))
        return [{**prompts[key[0]], "prompt": key[0], "response_ids": found[key]} for key in keys]

    def score(self, batch: Batch) -> Rows:
        return self.columns(self.scorer(batch), batch)

    def columns(self, scores: Tensor, batch: Batch) -> Rows:
        """What scores of prefixes, `[B, T]`, say of each response: its `reward`, NaN where a score is not finite."""
        rewards = torch.where(finite_responses(scores, batch), sequence_scores(scores, batch), torch.nan)
        return [{"reward": reward} for reward in rewards.tolist()]

    def accept(self, samples: Rows) -> Rows:
        """The `args.keep` best samples of every prompt; of equally good ones, those drawn first."""
        by_prompt: dict[int, Rows] = defaultdict(list)
        for row in samples:
            by_prompt[row["prompt"]].append(row)
        accepted = []
        for rows in by_prompt.values():
            mean = sum(row["reward"] for row in rows) / len(rows)
            best = sorted(rows, key=lambda row: row["reward"], reverse=True)[: self.args.keep]
            accepted += [{**row, "samples_reward": mean} for row in best]
        return accepted

    def log_samples(self, samples: Rows) -> None:
        """Say what the samples are like.

        Raises:
            ValueError: no sample has a finite reward.
        """
        unscored = sum(not math.isfinite(row["reward"]) for row in samples)
        if unscored == len(samples):
            raise ValueError(
                f"reward_model: expected finite scores, got NaN or infinity for all {len(samples)} sampled responses"
            )
        logger.warning(
            "samples: %d for %d prompts; %d were cut off at max_new_tokens=%d, %d are empty, %d have no finite reward "
            "and are never accepted",
            len(samples),
            len(samples) // self.args.samples,
            sum(row["response_ids"][-1] != self.eos_token_id for row in samples),
            self.args.max_new_tokens,
            sum(row["response_ids"] == [self.eos_token_id] for row in samples),
            unscored,
        )

    # --- training ----------------------------------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The mean negative log-likelihood of the tokens under the loss mask, over the batches of all processes."""
        logits = model_logits(model, inputs)
        # The logits at t - 1, read in place, predict the token at t.
        labels, mask = inputs["input_ids"][:, 1:], inputs["loss_mask"][:, 1:]
        logprobs, entropy = segkernel.token_logprobs(logits[:, :-1], labels, mask, entropy=True)
        loss = self.token_mean(-logprobs, mask)
        self.record_kept(mask.sum())
        self.record(
            {
                "reward/samples": inputs["samples_reward"],
                "reward/accepted": inputs["reward"],
                "kept": self.token_mean(inputs["loss_mask"].float(), inputs["response_mask"]),
                "entropy": self.token_mean(entropy.detach(), mask),
            }
        )
        return (loss, {"logits": logits}) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        prompts = inputs["prompts"]
        responses = self.sample(prompts, None)
        batch = response_batch(prompts, responses, self.response_collator, self.args.device)
        with torch.no_grad(), self.compute_loss_context_manager():
            rewards = torch.tensor([row["reward"] for row in self.score(batch)], device=self.args.device)
        # One whose scores are not finite counts with a reward of 0.
        metrics = {
            "reward": rewards.nan_to_num(),
            "length": batch["response_mask"].sum(1),
            "ended": torch.tensor([r[-1] == self.eos_token_id for r in responses], device=self.args.device),
            "nonfinite_rewards": rewards.isnan(),
        }
        return self.predicted({"loss": -metrics["reward"], **metrics})

    def sample(
        self, prompts: list[list[int]], keys: list[tuple[int, ...]] | None, description: str | None = None
    ) -> list[list[int]]:
        return sample_responses(
            self.accelerator.unwrap_model(self.model_wrapped),
            prompts,
            keys,
            self.args,
            eos_token_id=self.eos_token_id,
            pad_token_id=self.response_collator.pad_token_id,
            batch_size=self.args.per_device_eval_batch_size,
            description=description,
        )

    def collate(self, rows: Rows) -> dict[str, Any]:
        """Accepted responses to train on, or held-out prompts to answer."""
        if "response_ids" in rows[0]:
            return self.response_collator(rows)
        return {"prompts": [row["prompt_ids"] for row in rows]}
