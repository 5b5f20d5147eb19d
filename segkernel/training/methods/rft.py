"""Rejection-sampling fine-tuning: the likelihood of the best of several responses to every prompt.

The responses are sampled and scored once, before training, by the model as it is then; the training is supervised.
A row may carry `mask` (bools over its response tokens); the loss then reads those tokens only. Without a mask every
response token counts.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from segkernel import _validate
from segkernel.training.data.collators import ResponseCollator, collate_prompts
from segkernel.training.data.columns import RESPONSES
from segkernel.training.data.encoding import encode_prompts
from segkernel.training.data.tables import Array, Rows, flat_lists, rewards_of, to_dataset, to_table, with_columns
from segkernel.training.models.causality import check_left_padding
from segkernel.training.models.response_tokens import ResponseTokens
from segkernel.training.report_examples import best_and_worst, scored_samples
from segkernel.training.rewards.functions import check_scorer
from segkernel.training.rewards.prefix_scores import finite_responses, sequence_scores, token_rewards
from segkernel.training.rewards.reward_model import prefix_scorer
from segkernel.training.sampling import SamplingOptions, sample_responses
from segkernel.training.trainer.base import Items, SegkernelConfig, SegkernelTrainer, Split
from segkernel.training.trainer.batches import Batch, Columns, Lists, map_batches, response_batch
from segkernel.training.trainer.response_logits import logprobs_and_entropy, predicted, response_logits

logger = logging.getLogger(__name__)


@dataclass
class RFTConfig(SamplingOptions, SegkernelConfig):
    """Settings of `RFTTrainer`."""

    learning_rate: float = field(default=2e-5, metadata={"help": "AdamW's peak learning rate."})
    disable_dropout: bool = field(default=False, metadata={"help": "Train without the model's dropout."})
    samples: int = field(default=8, metadata={"help": "Responses sampled per prompt."})
    keep: int = field(default=1, metadata={"help": "How many of them are trained on: those of the highest reward."})
    report_responses: int = field(default=6, metadata={"help": "Sampled responses that report.html shows."})

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.minimum("samples", self.samples, 1)
        if not 1 <= self.keep <= self.samples:
            raise ValueError(f"keep: expected 1 <= keep <= samples={self.samples}, got {self.keep}")
        _validate.minimum("report_responses", self.report_responses, 0)


class RFTTrainer(SegkernelTrainer):
    """Trains a policy on the best of its own responses to the prompts of `train_dataset`.

    Held-out prompts are answered greedily by the policy as it is then; the loss reported for them is minus their
    reward.

    Args:
        reward_model: model with one output per token, read at a response's last token, or a reward function: of
            `prompts` and `responses`, lists of strings, which returns one score per response or a list of token rewards
            per response; or of a batch (`segkernel.training.rewards.functions`).
        model, args, train_dataset, eval_dataset, processing_class: as in `PreferenceTrainer`, with rows of prompts.
    """

    reads_every_prefix = False  # whether the reward model's scores are read within a response
    args: RFTConfig

    def __init__(
        self,
        model: PreTrainedModel,
        args: RFTConfig,
        train_dataset: Rows,
        eval_dataset: Rows | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        reward_model: nn.Module | Callable[..., Any],
        **kwargs: Any,
    ) -> None:
        args.fit_context({"model": model, **self.frozen_models(), "reward_model": reward_model})
        check_left_padding(model, "model")
        self.scorer = prefix_scorer(reward_model, args.device, processing_class, every_prefix=self.reads_every_prefix)
        self.response_collator = ResponseCollator.of(processing_class)
        self.response_tokens = ResponseTokens.of(model, processing_class, pad_id=self.response_collator.pad_token_id)
        super().__init__(
            model,
            args,
            train_dataset,
            eval_dataset,
            processing_class,
            data_collator=self.collate,
            compute_metrics=self.mean_metrics,
            **kwargs,
        )

    # --- before training ---------------------------------------------------------------------------------------------

    def encode(self, rows: Rows, split: Split) -> Dataset:
        options = self.encoding_options(split)
        return encode_prompts(rows, max_length=self.args.max_prompt_length, **options)

    def prepare(self, dataset: Dataset, split: Split) -> Dataset:
        dataset = super().prepare(dataset, split)
        if split == "eval":
            return dataset
        check_scorer(self.scorer, dataset[:2]["prompt_ids"], self.response_collator, self.args.device)
        samples = self.sample_prompts(dataset)
        samples = map_batches(self.score, samples, self.response_collator, self.args, "rewards")
        finite = np.isfinite(rewards_of(samples))
        self.log_samples(samples, finite)
        samples = samples.select(np.flatnonzero(finite))
        self.shown = best_and_worst(samples, self.args.report_responses)
        return self.accept(samples)

    def report_examples(self) -> list[Any]:
        """Best and worst sample of some prompts, colored by the rewards of their tokens."""
        if not isinstance(self.processing_class, PreTrainedTokenizerBase) or not len(self.shown):
            return []
        rows = map_batches(
            self.token_reward_columns, self.shown, self.response_collator, self.args, "rewards of the report"
        )
        return scored_samples(rows, self.processing_class)

    def token_reward_columns(self, batch: Batch) -> Columns:
        """`token_rewards` of the responses in a batch: the change that each token makes to the score."""
        rewards = token_rewards(self.scorer(batch), batch, "difference")
        return {"token_rewards": Lists(rewards, batch["response_mask"])}

    def sample_prompts(self, prompts: Dataset) -> Dataset:
        """Sample `args.samples` responses to every prompt; the processes of a distributed run share them."""
        keys = [(prompt, number) for prompt in range(len(prompts)) for number in range(self.args.samples)]
        mine = keys[self.args.process_index :: self.args.world_size]
        ids = [row["prompt_ids"] for row in prompts]
        responses = self.sample(
            [ids[prompt] for prompt, _ in mine],
            [(self.args.seed, *key) for key in mine],
            description="samples" if self.args.process_index == 0 else None,
        )
        found = dict(gather_object(list(zip(mine, responses, strict=True))))
        rows = [{"prompt_index": key[0], "prompt_ids": ids[key[0]], "response_ids": found[key]} for key in keys]
        return to_dataset(rows, RESPONSES, "samples")

    def score(self, batch: Batch) -> Columns:
        """Columns of the responses in a batch `[B, T]`, from the scores of their prefixes."""
        return self.columns(self.scorer(batch), batch)

    def columns(self, scores: Tensor, batch: Batch) -> Columns:
        """`reward` of each response, from the scores `[B, T]`: NaN if one of them is not finite."""
        return {"reward": torch.where(finite_responses(scores, batch), sequence_scores(scores, batch), torch.nan)}

    def accept(self, samples: Dataset) -> Dataset:
        """Select the `args.keep` best samples of every prompt; of equally good ones, those drawn first."""
        rewards = rewards_of(samples).tolist()
        by_prompt: dict[int, list[int]] = defaultdict(list)
        for row, prompt in enumerate(to_table(samples)["prompt_index"].to_pylist()):
            by_prompt[prompt].append(row)
        accepted, means = [], []
        for rows in by_prompt.values():
            best = sorted(rows, key=rewards.__getitem__, reverse=True)[: self.args.keep]
            accepted += best
            means += [sum(rewards[row] for row in rows) / len(rows)] * len(best)
        return with_columns(samples.select(accepted), {"samples_reward": np.array(means)}, RESPONSES)

    def log_samples(self, samples: Dataset, finite: Array) -> None:
        """Log how many samples are cut off, empty, or without a finite reward.

        Raises:
            ValueError: no sample has a finite reward.
        """
        if not finite.any():
            raise ValueError(
                f"reward_model: expected finite scores, got NaN or infinity for all {len(samples)} sampled responses"
            )
        responses = flat_lists(samples, "response_ids")
        ended = np.isin(responses.values[responses.offsets[1:] - 1], self.response_tokens.end_ids)
        logger.warning(
            "samples: %d for %d prompts; %d were cut off at max_new_tokens=%d, %d are empty, %d have no finite reward "
            "and are never accepted",
            len(samples),
            len(set(to_table(samples)["prompt_index"].to_pylist())),
            (~ended).sum(),
            self.args.max_new_tokens,
            (ended & (responses.lengths == 1)).sum(),
            (~finite).sum(),
        )

    # --- training ----------------------------------------------------------------------------------------------------

    def trained_tokens(self, logits: Tensor, batch: Batch) -> Tensor:
        """Boolean `[B, T]`: tokens of a batch that this step trains on; in RFT those of `loss_mask`.

        `logits` `[N, V]` are the current policy's at the response tokens (`response_logits`).
        """
        return batch["loss_mask"]

    def items(self, batch: Batch) -> Items:
        return {"tokens": batch["loss_mask"][:, 1:].sum()}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Mean negative log-likelihood of the tokens under the loss mask, over all batches of an optimizer step."""
        logits = response_logits(model, inputs)
        trained = self.trained_tokens(logits.detach(), inputs)
        mask = trained & predicted(inputs)
        logprobs, entropy = logprobs_and_entropy(logits, inputs, mask)
        items = num_items_in_batch or self.total_items([inputs])
        loss = self.step_share(-logprobs, mask, items["tokens"])
        self.record_kept(mask.sum())
        self.record({"reward/samples": inputs["samples_reward"], "reward/accepted": inputs["reward"]})
        self.record({"kept": trained}, inputs["response_mask"])
        self.record({"entropy": entropy}, mask)
        return (loss, {"logits": logits}) if return_outputs else loss

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        prompts = inputs["prompts"]
        responses = self.sample(prompts, None)
        batch = response_batch(prompts, responses, self.response_collator, self.args.device)
        with torch.no_grad(), self.compute_loss_context_manager():
            rewards: Any = self.score(batch)["reward"]
        # A response whose scores are not finite counts with a reward of 0.
        metrics = {
            "reward": rewards.nan_to_num(),
            "length": batch["response_mask"].sum(1),
            "ended": self.response_tokens.ended(responses).to(self.args.device),
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
            tokens=self.response_tokens,
            batch_size=self.args.per_device_eval_batch_size,
            description=description,
            disable_tqdm=self.args.disable_tqdm,
        )

    def collate(self, rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Batch of accepted responses to train on, or of held-out prompts to answer."""
        rows = list(rows)
        if "response_ids" in rows[0]:
            return self.response_collator(rows)
        return collate_prompts(rows)
