"""Debouncing of the trigger's states: a state counts only if it lasts."""

import torch
from torch import Tensor

from segkernel.training.segmentation.rows import TokenRows


def debounce(states: TokenRows, minimum: int) -> Tensor:
    """Debounced states: every state lasts at least `minimum` tokens, or the whole response.

    A run of equal states lasts if it has at least `minimum` tokens, or is its whole response. As in the debouncing of a
    switch, a state is taken over only once it lasts, and then from its first token on: a run that does not last gets
    the state of the last run before it that does, or of the first one after it if there is none before. A response
    without any lasting run is neutral, 0: none of its states is more than noise.

    The runs are judged as they are in `states`, so the result does not depend on an order of merging, and every run of
    the result holds a lasting run of the same state.

    Args:
        states: integers `[N]` in packed rows.
        minimum: at least 1, in tokens; 1 leaves the states as they are.

    Returns:
        `[N]`, in the dtype of `states`.

    Example:
        >>> states = torch.tensor([1, 1, 1, -1, 1, -1, -1, -1])
        >>> debounce(TokenRows(states, torch.tensor([0, 8])), 2)
        tensor([ 1,  1,  1,  1,  1, -1, -1, -1])
    """
    values, rows = states.values, states.rows
    if minimum == 1 or not len(values):
        return values
    starts = torch.ones_like(values, dtype=torch.bool)
    starts[1:] = (values[1:] != values[:-1]) | (rows[1:] != rows[:-1])
    first = starts.nonzero()[:, 0]  # [runs]
    run = starts.cumsum(0) - 1  # [N]
    row = rows[first]
    lasts = run.bincount() >= states.lengths[row].clamp(max=minimum)

    index, none = torch.arange(len(first), device=values.device), len(first)
    before = torch.where(lasts, index, -1).cummax(0).values
    after = torch.where(lasts, index, none).flip(0).cummin(0).values.flip(0)
    in_row = [(near >= 0) & (near < none) & (row[near.clamp(0, none - 1)] == row) for near in (before, after)]
    source = torch.where(in_row[0], before, after).clamp(0, none - 1)
    return torch.where(in_row[0] | in_row[1], values[first[source]], 0)[run]
