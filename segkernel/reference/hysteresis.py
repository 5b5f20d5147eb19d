"""Schmitt trigger: a state that changes only outside the band `[low, high]`."""

import torch
from torch import Tensor

from segkernel.reference.rows import compute_dtype, per_row, valid_tokens


def hysteresis(
    rewards: Tensor,
    mask: Tensor | None = None,
    *,
    low: float | Tensor,
    high: float | Tensor,
    initial: int | Tensor = 0,
    hold: bool = True,
    cu_seqlens: Tensor | None = None,
) -> Tensor:
    rows = valid_tokens(rewards, mask, cu_seqlens)
    r = rewards.to(compute_dtype(rewards)).flatten()
    low, high = per_row(low, len(rows), like=r), per_row(high, len(rows), like=r)  # [B]
    states = torch.zeros(r.shape, dtype=torch.int8, device=r.device)
    initial = per_row(initial, len(rows), like=states)  # [B]

    for b, tokens in enumerate(rows):
        above, below = (r[tokens] > high[b]).tolist(), (r[tokens] < low[b]).tolist()
        state = int(initial[b])
        row_states = []
        for is_above, is_below in zip(above, below, strict=True):
            if is_above:
                state = 1
            elif is_below:
                state = -1
            elif not hold:
                state = 0
            row_states.append(state)
        states[tokens] = torch.tensor(row_states, dtype=torch.int8, device=r.device)
    return states.view(rewards.shape)
