"""Thresholds of segmentation by token rewards, fitted to the rewards of the training tokens."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

import segkernel
from segkernel.training.segmentation.debounce import debounce
from segkernel.training.segmentation.options import SegmentOptions
from segkernel.training.segmentation.rows import TokenRows
from segkernel.training.segmentation.zone import fitted_zone
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
        return cls(
            *fitted_zone(rewards.scored, options),
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
        rewards = rewards.scored
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

        A token that ends a response belongs to the segment before it, whatever its reward, and is never suppressed.
        Every complete response has one, so preferences between responses leave its reward undetermined. If it is
        suppressed, the policy can forget to end its responses.

        Args:
            rewards: the responses' smoothed token rewards.
            baselines: `[B]`.
            signs: `[B]`, the signs of the responses.
        """
        if rewards.ended is None:
            return self._segment(rewards, baselines, signs)
        ends, values = rewards.ends, rewards.values.clone()
        follows = rewards.lengths[rewards.ended] > 1  # a response of only its end is neutral
        before, neutral = values[(ends - 1).clamp(min=0)], baselines[rewards.ended].to(values.dtype)
        values[ends] = torch.where(follows, before, neutral)
        found = self._segment(replace(rewards, values=values), baselines, signs)
        assert found.mask is not None  # since signs were given
        mask = found.mask.clone()
        mask[ends] &= (signs[rewards.ended] > 0) & (follows | self.keep_neutral)
        return found._replace(mask=mask)

    def _segment(self, rewards: TokenRows, baselines: Tensor, signs: Tensor) -> Segments:
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
