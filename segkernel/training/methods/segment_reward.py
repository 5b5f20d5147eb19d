"""Segment reward model: Bradley-Terry on the mean of segment rewards (arXiv 2501.02790).

A frozen language model's entropy cuts every response: a token that was drawn where it was unsure opens a segment. The
scalar head is read at the last token of each, and the mean of that is the response's score. An entropy threshold of 0
makes every token a segment; an infinite one makes the response one, which is `reward`.

The EOS is a token of the response like any other: it belongs to the last segment, or is one. (The paper's equations do
not single it out; the authors' code leaves it out of the segments, but not where the response is one segment.)
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import segkernel
from segkernel.losses import bradley_terry_loss
from segkernel.training.data.collators import columns_of_sides
from segkernel.training.rewards.reward_model import prefix_scores
from segkernel.training.segmentation.entropy import (
    Segmenter,
    check_segmentation,
    rewards_at_segment_ends,
    token_entropy,
)
from segkernel.training.trainer.batches import Batch, Rows, map_batches, model_logits
from segkernel.training.trainer.preference import PreferenceConfig, PreferenceTrainer


@dataclass
class SegmentRewardConfig(PreferenceConfig):
    """Settings of `SegmentRewardTrainer`."""

    learning_rate: float = field(default=1e-4, metadata={"help": "AdamW's peak learning rate."})
    entropy_threshold: float = field(
        default=1.75,
        metadata={
            "help": "A token drawn from a distribution of more entropy than this, in nats, opens a segment; 0: every "
            "token does, inf: none but the first."
        },
    )
    min_length: int = field(
        default=1, metadata={"help": "Fewest tokens that a segment has before another one may open."}
    )
    normalizer_pairs: int = field(
        default=2000,
        metadata={
            "help": "Most training pairs, evenly spaced, whose segment rewards the location-aware normaliser is "
            "fitted to whenever the model is saved."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_segmentation(self.entropy_threshold, self.min_length)
        if self.normalizer_pairs < 1:
            raise ValueError(f"normalizer_pairs: expected at least 1, got {self.normalizer_pairs}")


class SegmentRewardTrainer(PreferenceTrainer):
    """Trains a model with one output per token to score `chosen` above `rejected` by the mean of its segment rewards.

    `ref_model` is the language model whose entropy cuts the responses, once, before training. Beside every saved model
    goes its `segments.json`, for `segkernel.training.segmentation.entropy.load_segmenter`.
    """

    accuracy_metric = "accuracy"
    args: SegmentRewardConfig

    def __init__(
        self,
        model: PreTrainedModel,
        args: SegmentRewardConfig,
        train_dataset: Iterable[Mapping[str, Any]],
        eval_dataset: Iterable[Mapping[str, Any]] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        ref_model: nn.Module,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, args, train_dataset, eval_dataset, processing_class, **kwargs)
        reference = ref_model.to(args.device).eval()
        self.train_dataset = self.with_segments(self.train_dataset, reference)
        if self.eval_dataset is not None:
            self.eval_dataset = self.with_segments(self.eval_dataset, reference)

    def with_segments(self, rows: Rows, reference: nn.Module) -> Rows:
        """Add `chosen_segment_ids`, `rejected_segment_ids` (one per response token) and `segments` (how many)."""

        def columns(batch: Batch) -> Rows:
            mask = batch["response_mask"].flatten(0, 1)
            entropy = token_entropy(model_logits(reference, batch), batch)
            ids, counts = segkernel.segment_by_entropy(
                entropy, mask, threshold=self.args.entropy_threshold, min_length=self.args.min_length
            )
            found = columns_of_sides("segment_ids", ids, batch["response_mask"])
            return [{**row, "segments": n} for row, n in zip(found, counts.view(-1, 2).tolist(), strict=True)]

        return map_batches(columns, rows, self.data_collator, self.args, "reference entropy")

    def pair_losses(self, model: nn.Module, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        segments = batch["segments"]  # [B, 2]
        chosen, rejected = (segment_rewards(model, batch).sum(-1) / segments).unbind(1)
        return bradley_terry_loss(chosen, rejected), {
            "accuracy": (chosen > rejected).float(),
            "scores/chosen": chosen,
            "scores/rejected": rejected,
            "scores/margin": chosen - rejected,
            "segments/chosen": segments[:, 0],
            "segments/rejected": segments[:, 1],
        }

    def fit_segmenter(self) -> Segmenter:
        """The segmenter of the model as it is now, its normaliser fitted to the training responses."""
        rows = self.train_dataset[:: -(-len(self.train_dataset) // self.args.normalizer_pairs)]
        model: Any = self.model
        was_training = model.training
        model.eval()

        def columns(batch: Batch) -> Rows:
            found = zip(segment_rewards(model, batch).tolist(), batch["segments"].tolist(), strict=True)
            return [{"rewards": [r[:n] for r, n in zip(rewards, counts, strict=True)]} for rewards, counts in found]

        rows = map_batches(columns, rows, self.data_collator, self.args, "segment rewards")
        model.train(was_training)
        responses = [torch.tensor(rewards) for row in rows for rewards in row["rewards"]]
        return Segmenter.fit(
            nn.utils.rnn.pad_sequence(responses, batch_first=True),
            torch.tensor([len(rewards) for rewards in responses]),
            entropy_threshold=self.args.entropy_threshold,
            min_length=self.args.min_length,
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        segmenter = self.fit_segmenter()  # by all processes, for one of them to write
        if self.args.should_save:
            segmenter.save(output_dir or self.args.output_dir)


def segment_rewards(model: nn.Module, batch: Batch) -> Tensor:
    """The model's rewards of both responses' segments, `[B, 2, S]`; 0 past their number."""
    ids = batch["segment_ids"]
    return rewards_at_segment_ends(prefix_scores(model, batch), ids.flatten(0, 1)).view_as(ids)
