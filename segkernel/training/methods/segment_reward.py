"""Segment reward model: Bradley-Terry on the mean of segment rewards (arXiv 2501.02790).

A frozen language model's entropy cuts every response: a token drawn from a distribution of high entropy opens a
segment. The scalar head is read at the last token of each segment, and the mean of these rewards is the response's
score. An entropy threshold of 0 makes every token a segment; an infinite one makes the whole response one segment,
which is `reward`.

The EOS is a token of the response like any other: it belongs to the last segment, or is one. (The paper's equations do
not single it out; the authors' code leaves it out of the segments, but not where the response is one segment.)
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn

import segkernel
from segkernel import _validate
from segkernel.losses import bradley_terry_loss
from segkernel.training.data.tables import flat_sides
from segkernel.training.segmentation.entropy import (
    Segmenter,
    check_segmentation,
    segment_rewards,
    token_entropy,
)
from segkernel.training.trainer.base import Split
from segkernel.training.trainer.batches import Batch, Columns, Lists, map_batches
from segkernel.training.trainer.preference import PreferenceConfig, PreferenceTrainer
from segkernel.training.trainer.response_logits import response_logits


@dataclass
class SegmentRewardConfig(PreferenceConfig):
    """Settings of `SegmentRewardTrainer`."""

    learning_rate: float = field(default=1e-4, metadata={"help": "AdamW's peak learning rate."})
    entropy_threshold: float = field(
        default=1.75,
        metadata={
            "help": "Entropy in nats; a token drawn from a distribution above it opens a segment. 0: every token "
            "does, inf: only the first."
        },
    )
    min_length: int = field(
        default=1, metadata={"help": "Fewest tokens that a segment has before another one may open."}
    )
    normalizer_pairs: int = field(
        default=2000,
        metadata={
            "help": "Most training pairs, evenly spaced, whose segment rewards the location-aware normalizer is "
            "fitted to whenever the model is saved."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_segmentation(self.entropy_threshold, self.min_length)
        _validate.minimum("normalizer_pairs", self.normalizer_pairs, 1)


class SegmentRewardTrainer(PreferenceTrainer):
    """Trains a model with one output per token to score `chosen` above `rejected` by the mean of its segment rewards.

    Each saved model gets a `segments.json`, for `segkernel.training.segmentation.entropy.load_segmenter`.

    Args:
        ref_model: language model whose entropy cuts the responses, once, before training.
        *args, **kwargs: arguments of `PreferenceTrainer`.
    """

    accuracy_metric = "accuracy"
    args: SegmentRewardConfig

    def __init__(self, *args: Any, ref_model: nn.Module, **kwargs: Any) -> None:
        self.ref_model: nn.Module | None = ref_model
        super().__init__(*args, **kwargs)
        self.ref_model = None  # its segments are columns by now

    def prepare(self, dataset: Dataset, split: Split) -> Dataset:
        assert self.ref_model is not None
        reference = self.ref_model.to(self.args.device).eval()
        return self.with_segments(super().prepare(dataset, split), reference)

    def with_segments(self, pairs: Dataset, reference: nn.Module) -> Dataset:
        """Add `chosen_segment_ids`, `rejected_segment_ids` (one per response token) and `segments` (their numbers)."""

        def columns(batch: Batch) -> Columns:
            mask = batch["response_mask"].flatten(0, 1)
            entropy = token_entropy(response_logits(reference, batch), batch)
            ids, counts = segkernel.segment_by_entropy(
                entropy, mask, threshold=self.args.entropy_threshold, min_length=self.args.min_length
            )
            return {"segment_ids": Lists(ids, mask), "segments": counts.view(-1, 2)}

        return map_batches(columns, pairs, self.data_collator, self.args, "reference entropy")

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
        """Segmenter of the current model, with its normalizer fitted to the training responses."""
        step = -(-len(self.train_dataset) // self.args.normalizer_pairs)
        pairs = self.train_dataset.select(range(0, len(self.train_dataset), step))
        model: Any = self.model
        was_training = model.training
        model.eval()

        def columns(batch: Batch) -> Columns:
            rewards, counts = segment_rewards(model, batch).flatten(0, 1), batch["segments"].flatten()
            valid = torch.arange(rewards.shape[1], device=counts.device) < counts[:, None]
            return {"segment_rewards": Lists(rewards, valid)}

        pairs = map_batches(columns, pairs, self.data_collator, self.args, "segment rewards")
        model.train(was_training)
        values, lengths = (torch.from_numpy(array.copy()) for array in flat_sides(pairs, "segment_rewards"))
        rewards = torch.zeros(len(lengths), int(lengths.max()))
        rewards[torch.arange(rewards.shape[1]) < lengths[:, None]] = values
        return Segmenter.fit(
            rewards, lengths, entropy_threshold=self.args.entropy_threshold, min_length=self.args.min_length
        )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        segmenter = self.fit_segmenter()  # a collective: all processes compute it, one writes it
        if self.args.should_save:
            segmenter.save(output_dir or self.args.output_dir)
