"""Random masks of response tokens: the controls of methods that select tokens."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# First entry of the seeds, which keeps the masks independent of other random numbers with the same key.
STREAM = 0x6D61736B


def random_tokens(length: int, share: float, piece_length: float, key: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Boolean `[length]`: tokens chosen at random, a function of `key`.

    A response is cut into pieces: every token after the first opens one with probability `1 / piece_length`, so that
    their lengths are geometric. Each piece is chosen with probability `share`, independently of the others; with
    `piece_length` 1 the tokens are independent.

    Args:
        length: number of tokens.
        share: probability in (0, 1] that a token is chosen.
        piece_length: mean length of a piece, at least 1.
        key: non-negative integers that seed the random numbers.

    Example:
        >>> random_tokens(12, 0.5, 4.0, (0, 2)).astype(int)
        array([0, 0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 1])
    """
    opens, chosen = np.random.default_rng((STREAM, *key)).random((2, length)) < [[1 / piece_length], [share]]
    opens[:1] = True
    # Every token has the choice of the last token that opened a piece.
    found: npt.NDArray[np.bool_] = chosen[np.maximum.accumulate(np.where(opens, np.arange(length), 0))]
    return found


def random_mask(mask: Tensor, shares: Sequence[float], piece_length: float, keys: Sequence[Sequence[int]]) -> Tensor:
    """Boolean `[rows, T]`: random tokens of the responses under a boolean `mask` `[rows, T]`.

    A response has the same random tokens wherever its row is padded.

    Args:
        mask: tokens of the responses.
        shares: share of each row (`random_tokens`).
        piece_length: mean length of a piece.
        keys: key of each row.
    """
    lengths = mask.sum(1).tolist()
    rows = [random_tokens(n, share, piece_length, key) for n, share, key in zip(lengths, shares, keys, strict=True)]
    chosen = torch.zeros_like(mask)
    chosen[mask] = torch.from_numpy(np.concatenate(rows)).to(mask.device)
    return chosen
