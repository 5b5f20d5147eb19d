"""Segments from pivots and the Schmitt trigger, their rewards and signs, and the adaptive loss mask."""

import torch
from torch import Tensor

from segkernel.reference.detect_pivots import detect_pivots
from segkernel.reference.hysteresis import hysteresis
from segkernel.reference.rows import compute_dtype, per_row, row_bounds, valid_tokens
from segkernel.reference.segment_reduce import REDUCE
from segkernel.types import Segments


def segment(
    rewards: Tensor,
    mask: Tensor | None = None,
    *,
    pivot_threshold: float | Tensor | None = None,
    baseline: float | Tensor = 0.0,
    delta: float | Tensor | None = None,
    hold: bool = True,
    initial: int | Tensor = 0,
    reduce: str = "mean",
    sequence_sign: float | Tensor | None = None,
    keep_neutral: bool = False,
    cu_seqlens: Tensor | None = None,
    max_segments: int | None = None,
) -> Segments:
    rows = valid_tokens(rewards, mask, cu_seqlens)
    bounds = row_bounds(rewards, cu_seqlens)
    B, device = len(rows), rewards.device
    r = rewards.to(compute_dtype(rewards)).flatten()
    baseline = per_row(baseline, B, like=r)

    starts = torch.zeros(r.shape, dtype=torch.bool, device=device)
    if pivot_threshold is not None:
        starts |= detect_pivots(rewards, mask, threshold=pivot_threshold, cu_seqlens=cu_seqlens).flatten()
    if delta is not None:
        delta = per_row(delta, B, like=r)
        low, high = baseline - delta, baseline + delta
        states = hysteresis(
            rewards, mask, low=low, high=high, initial=initial, hold=hold, cu_seqlens=cu_seqlens
        ).flatten()

    if cu_seqlens is None:
        S = max_segments or rewards.shape[1]
        slots = [(b * S, S) for b in range(B)]  # where a row's segments go, and how many of them
        segments_shape: tuple[int, ...] = (B, S)
    else:
        slots = [(start, end - start) for start, end in bounds]
        segments_shape = (r.numel(),)
    ids = torch.full(r.shape, -1, dtype=torch.int32, device=device)
    counts = torch.zeros(B, dtype=torch.int32, device=device)
    lengths = torch.zeros(segments_shape, dtype=torch.int32, device=device)
    segment_rewards = torch.zeros(segments_shape, dtype=torch.float32, device=device)
    signs = torch.zeros(segments_shape, dtype=torch.int8, device=device)
    loss_mask = torch.zeros(r.shape, dtype=torch.bool, device=device)

    for b, tokens in enumerate(rows):
        row_starts = starts[tokens]
        row_starts[:1] = True
        if delta is not None:
            row_starts[1:] |= states[tokens][1:] != states[tokens][:-1]
        row_ids = row_starts.cumsum(0) - 1
        ids[tokens] = row_ids.int()
        counts[b] = row_starts.sum()

        first_slot, number_of_slots = slots[b]
        for k, members in enumerate(tokens.split(row_ids.bincount().tolist())):
            reward = REDUCE[reduce](r[members])
            sign = int(states[members[0]]) if delta is not None else sign_of(reward - baseline[b])
            if k < number_of_slots:
                lengths.view(-1)[first_slot + k] = len(members)
                segment_rewards.view(-1)[first_slot + k] = reward
                signs.view(-1)[first_slot + k] = sign
            if sequence_sign is not None:
                wanted = sign_of(torch.as_tensor(sequence_sign).expand(B)[b])
                loss_mask[members] = (sign == wanted != 0) or (keep_neutral and sign == 0)

    return Segments(
        ids.view(rewards.shape),
        counts,
        lengths,
        segment_rewards,
        signs,
        loss_mask.view(rewards.shape) if sequence_sign is not None else None,
    )


def sign_of(value: Tensor) -> int:
    """-1, 0 or +1; 0 for NaN."""
    return int(value > 0) - int(value < 0)
