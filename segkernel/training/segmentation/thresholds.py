"""Thresholds of segmentation by token rewards, fitted to the rewards of the training tokens."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from torch import Tensor

import segkernel
from segkernel.training.data.tables import FlatLists, flat_sides
from segkernel.training.rounding import rounding_error
from segkernel.training.segmentation.options import SegmentOptions
from segkernel.types import Segments


@dataclass(frozen=True)
class Thresholds:
    """Arguments of `segkernel.segment` resolved from `SegmentOptions`, in units of the token rewards."""

    baseline: float
    delta: float | None
    pivot_threshold: float | None
    hold: bool
    keep_neutral: bool
    reduce: str

    @classmethod
    def of_pairs(cls, pairs: Dataset, options: SegmentOptions) -> "Thresholds":
        """Fit `options` to the columns `chosen_token_rewards` and `rejected_token_rewards` of training pairs."""
        return cls.fit(flat_sides(pairs, "token_rewards").values, options)

    @classmethod
    def fit(cls, token_rewards: npt.ArrayLike, options: SegmentOptions) -> "Thresholds":
        """Convert `options` to the unit of these token rewards `[N]`, with their mean, median and deviation."""
        rewards = torch.from_numpy(np.array(token_rewards, dtype=np.float64))
        unit = 1.0
        if options.threshold_unit == "std" and len(rewards) > 1:
            # Rewards that are equal up to rounding stay within a neutral zone of any width.
            unit = float(max(rewards.std(), rounding_error(rewards)))
        if options.baseline == "mean":
            baseline = float(rewards.mean())
        elif options.baseline == "median":
            baseline = float(rewards.median())
        else:
            baseline = float(options.baseline)
        return cls(
            baseline=baseline,
            delta=None if options.delta is None else options.delta * unit,
            pivot_threshold=None if options.pivot_threshold is None else options.pivot_threshold * unit,
            hold=options.hold,
            keep_neutral=options.keep_neutral,
            reduce=options.reduce,
        )

    def segment(
        self,
        token_rewards: Tensor,
        mask: Tensor | None,
        sequence_sign: Tensor,
        *,
        cu_seqlens: Tensor | None = None,
    ) -> Segments:
        """`segkernel.segment` with these thresholds."""
        return segkernel.segment(
            token_rewards,
            mask,
            pivot_threshold=self.pivot_threshold,
            baseline=self.baseline,
            delta=self.delta,
            hold=self.hold,
            reduce=self.reduce,
            sequence_sign=sequence_sign,
            keep_neutral=self.keep_neutral,
            cu_seqlens=cu_seqlens,
        )

    def loss_masks(self, token_rewards: FlatLists, sequence_signs: npt.NDArray[np.int64]) -> tuple[FlatLists, Tensor]:
        """Loss masks of responses without padding, and the number of segments of each, `[rows]`."""
        segments = self.segment(
            torch.from_numpy(token_rewards.values.astype(np.float32)),
            None,
            torch.from_numpy(sequence_signs),
            cu_seqlens=torch.from_numpy(token_rewards.offsets),
        )
        assert segments.mask is not None  # since signs were given
        return FlatLists(segments.mask.numpy(), token_rewards.lengths), segments.counts
