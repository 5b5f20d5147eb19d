"""Texts packed so that a beginning that several of them share is stored, and computed, once.

A row is a tree: each token attends to the tokens before it in its text, which may be shared with other texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segkernel.training.data.prefixes import common_prefix_length

Text = tuple[int, ...]


class Packed(NamedTuple):
    """Rows of packed texts.

    Args:
        ids: token ids `[R, N]`, 0 at the padding after a row.
        positions: position of each token in its text `[R, N]`.
        attends: bool `[R, N, N]`, which tokens (last axis) a token attends to; padding attends to itself.
        places: for each text its row, and the places of its tokens in that row.
    """

    ids: Tensor
    positions: Tensor
    attends: Tensor
    places: dict[Text, tuple[int, list[int]]]


def pack(texts: Sequence[Text], longest: int = 512) -> Packed:
    """Pack texts into rows of at most `longest` tokens, or of one longer text.

    Example:
        >>> packed = pack([(5, 3, 9), (5, 3, 4, 7)])
        >>> packed.ids.tolist(), packed.positions.tolist()
        ([[5, 3, 4, 7, 9]], [[0, 1, 2, 3, 2]])
        >>> packed.places
        {(5, 3, 4, 7): (0, [0, 1, 2, 3]), (5, 3, 9): (0, [0, 1, 4])}
    """
    rows: list[list[int]] = []
    places: dict[Text, tuple[int, list[int]]] = {}
    before: Text = ()
    for text in sorted(set(texts)):  # texts with a common beginning are neighbors
        shared = common_prefix_length(before, text)
        if not rows or len(rows[-1]) + len(text) - shared > longest:
            rows.append([])
            shared = 0
        path = places[before][1][:shared] if shared else []
        new = range(len(rows[-1]), len(rows[-1]) + len(text) - shared)
        places[text] = (len(rows) - 1, [*path, *new])
        rows[-1] += text[shared:]
        before = text
    count, width = len(rows), max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    positions = torch.zeros(count, width, dtype=torch.long)
    attends = torch.eye(width, dtype=torch.bool).repeat(count, 1, 1)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    for row, path in places.values():
        place = torch.tensor(path)
        positions[row, place] = torch.arange(len(path))
        attends[row, place[:, None], place] = causal[: len(path), : len(path)]
    return Packed(ids, positions, attends, places)
