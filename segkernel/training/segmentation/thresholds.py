"""Thresholds of segmentation by token rewards, fitted to the rewards of the training tokens."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import segkernel
from segkernel.training.segmentation.debounce import debounce
from segkernel.training.segmentation.options import ROW_BASELINES, SegmentOptions
from segkernel.training.segmentation.rows import TokenRows
from segkernel.training.segmentation.units import threshold_unit
from segkernel.types import Segments


@dataclass(frozen=True)
class Thresholds:
    """Arguments of `segkernel.segment` resolved from `SegmentOptions`, in units of the token rewards.

    Args:
        baseline: the same for all responses, or `sequence` or `prompt`, whose value is computed for each
            (`baselines`).
        shift: added to the baseline.
        delta, pivot_threshold, hold, keep_neutral, reduce: arguments of `segkernel.segment`.
        min_segment_length: fewest tokens of a segment (`debounce`).
    """

    baseline: float | str
    shift: float
    delta: float | None
    pivot_threshold: float | None
    hold: bool = True
    keep_neutral: bool = False
    reduce: str = "mean"
    min_segment_length: int = 1

    @classmethod
    def fit(cls, rewards: TokenRows, options: SegmentOptions) -> "Thresholds":
        """Convert `options` to the unit of the smoothed token rewards of the training data."""
        values = rewards.values.double()
        unit = threshold_unit(rewards, options)
        statistics = {"mean": values.mean(), "median": values.median()}
        baseline = options.baseline
        return cls(
            baseline=baseline if baseline in ROW_BASELINES else float(statistics.get(baseline, baseline)),
            shift=options.baseline_shift * unit,
            delta=None if options.delta is None else options.delta * unit,
            pivot_threshold=None if options.pivot_threshold is None else options.pivot_threshold * unit,
            hold=options.hold,
            keep_neutral=options.keep_neutral,
            reduce=options.reduce,
            min_segment_length=options.min_segment_length,
        )

    def baselines(self, rewards: TokenRows, prompts: Tensor) -> Tensor:
        """Baseline of every response, `[B]` float64.

        Args:
            rewards: the responses' smoothed token rewards.
            prompts: `[B]` integers, equal for the responses to one prompt. `prompt` averages over the tokens of all of
                them, `sequence` over those of each response.
        """
        lengths = rewards.lengths
        if not isinstance(self.baseline, str):
            return torch.full(lengths.shape, self.baseline + self.shift, dtype=torch.float64, device=lengths.device)
        ids = torch.zeros_like(rewards.rows)
        sums = segkernel.segment_reduce(rewards.values.double(), ids, 1, cu_seqlens=rewards.cu_seqlens)[:, 0]
        counts = lengths.double()
        if self.baseline == "prompt":
            group = prompts.unique(return_inverse=True)[1]
            sums, counts = (torch.zeros_like(of).index_add_(0, group, of)[group] for of in (sums, counts))
        return sums / counts.clamp(min=1) + self.shift

    def segment(self, rewards: TokenRows, baselines: Tensor, signs: Tensor) -> Segments:
        """`segkernel.segment` of packed responses with these thresholds.

        Args:
            rewards: the responses' smoothed token rewards.
            baselines: `[B]`.
            signs: `[B]`, the signs of the responses.
        """
        segment = partial(
            segkernel.segment, sequence_sign=signs, keep_neutral=self.keep_neutral, cu_seqlens=rewards.cu_seqlens
        )
        segments = segment(
            rewards.values,
            pivot_threshold=self.pivot_threshold,
            baseline=baselines,
            delta=self.delta,
            hold=self.hold,
            reduce=self.reduce,
        )
        if self.min_segment_length == 1:
            return segments
        first = rewards.cu_seqlens[rewards.rows]  # [N], the first slot of the token's response
        states = debounce(TokenRows(segments.signs[first + segments.ids], rewards.cu_seqlens), self.min_segment_length)
        segments = segment(states.float(), delta=0.5, hold=False)
        slots = (first + segments.ids)[None]
        reduced = segkernel.segment_reduce(rewards.values[None], slots, slots.shape[1], reduce=self.reduce)[0]
        return segments._replace(rewards=reduced)
