"""Moving average of token rewards within a response."""

from dataclasses import replace

import torch

from segkernel.training.segmentation.rows import TokenRows


def smooth(rewards: TokenRows, window: int) -> TokenRows:
    """Mean of the rewards in a window around every token.

    Token `t` of `T` gets the mean over the tokens `t - window // 2` to `t + (window - 1) // 2` that its response has:
    a centered window if `window` is odd, with one more token before than after if it is even. At the ends of a
    response the window is cut, so it reaches neither into the prompt nor into another response.

    For `window = 2 h + 1` and differences of prefix scores, the mean is `(s[t + h] - s[t - h - 1]) / window` away from
    the ends: smoothing the differences is taking differences over a longer distance.

    Args:
        rewards: `[N]` in packed rows; averaged in float64. The value of a token that ends a response is in no mean.
        window: at least 1, in tokens; 1 leaves the rewards as they are.

    Example:
        >>> rows = TokenRows(torch.tensor([0.0, 3.0, 6.0, 9.0, 100.0]), torch.tensor([0, 4, 5]))
        >>> smooth(rows, 3).values
        tensor([  1.5000,   3.0000,   6.0000,   7.5000, 100.0000])
    """
    if window == 1:
        return rewards
    values = rewards.values.double()
    index = torch.arange(len(values), device=values.device)
    first, last = rewards.cu_seqlens[rewards.rows], rewards.cu_seqlens[rewards.rows + 1] - 1
    scored = torch.ones_like(values, dtype=torch.bool)
    scored[rewards.ends] = False
    sums, counts = torch.zeros_like(values), torch.zeros_like(values)
    for offset in range(-(window // 2), (window - 1) // 2 + 1):
        other = index + offset
        place = other.clamp(first, last)
        counted = (place == other) & scored[place]
        sums += torch.where(counted, values[place], 0.0)
        counts += counted
    return replace(rewards, values=(sums / counts.clamp(min=1)).to(rewards.values.dtype))
