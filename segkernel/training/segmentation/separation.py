"""Separation of preference pairs by the loss mask itself, without a better policy."""

import logging
from typing import NamedTuple

import numpy as np
from datasets import Dataset
from scipy.sparse import csr_array

from segkernel.training.data.tables import Array, flat_sides

logger = logging.getLogger(__name__)

SEPARATED, FAR = 0.9, 0.75  # shares of the pairs
FEWEST_PROMPTS = 20


class SideTokens(NamedTuple):
    """Tokens of the responses of preference pairs, `[N]` each."""

    ids: Array
    pairs: Array  # number of the token's pair
    prompts: Array  # number of its prompt
    rejected: Array  # bool, whether the token is of the rejected response

    @classmethod
    def of_pairs(cls, pairs: Dataset, prompts: Array) -> "SideTokens":
        """All response tokens of encoded pairs, with the number of each pair's prompt, `[pairs]`."""
        ids, lengths = flat_sides(pairs, "ids")
        side = np.repeat(np.arange(2 * len(pairs)), lengths)
        return cls(ids, side // 2, prompts[side // 2], side % 2 == 1)

    def where(self, kept: Array) -> "SideTokens":
        """Tokens under a mask `[N]`."""
        return SideTokens(*(values[kept] for values in self))


def token_bias_accuracy(tokens: SideTokens) -> float:
    """Share of pairs that one bias per token of the vocabulary ranks right.

    A policy that only makes some tokens more likely and others less, whatever the text before them, changes the
    log-ratio of a response by a sum of biases `b_v` over its tokens. They are estimated here as in naive Bayes,
    `b_v = log p_chosen(v) - log p_rejected(v)`, from the token counts of the pairs of all other prompts plus 1: answers
    to one prompt share their numbers and names. A pair with equal sums counts as half.

    For the tokens under a loss mask, it is the accuracy under the mask that is to be had without regard to context.

    Returns:
        NaN if there is no token.

    Example:
        >>> ids, pairs = np.array([5, 6, 5, 6, 5, 6]), np.array([0, 0, 1, 1, 2, 2])
        >>> token_bias_accuracy(SideTokens(ids, pairs, prompts=pairs, rejected=(ids == 6)))
        1.0
        >>> contradictory = np.array([False, True, True, False])
        >>> token_bias_accuracy(SideTokens(ids[:4], pairs[:4], pairs[:4], contradictory))
        0.0
    """
    if not len(tokens.ids):
        return float("nan")
    _, kind = np.unique(tokens.ids, return_inverse=True)
    _, prompt = np.unique(tokens.prompts, return_inverse=True)
    _, pair = np.unique(tokens.pairs, return_inverse=True)
    prompt_of_pair = np.zeros(pair.max() + 1, dtype=np.int64)
    prompt_of_pair[pair] = prompt
    # Tokens that both sides of a pair have equally often cancel exactly.
    surplus = csr_array((np.where(tokens.rejected, -1.0, 1.0), (pair, kind))).tocoo()
    row, column = surplus.coords
    bias = np.zeros(len(row))
    for side, sign in ((~tokens.rejected, 1), (tokens.rejected, -1)):
        counts = csr_array((side.astype(float), (prompt, kind)))  # [prompts, kinds]
        others = counts.sum(0)[column] - counts[prompt_of_pair[row], column] + 1
        total = (counts.sum() - counts.sum(1))[prompt_of_pair[row]] + counts.shape[1]
        bias += sign * np.log(others / total)
    margins = np.bincount(row, surplus.data * bias, minlength=len(prompt_of_pair))
    return float(((margins > 0) + 0.5 * (margins == 0)).mean())


def warn_of_separation(pairs: Dataset, prompts: Array) -> None:
    """Log a warning if the loss masks of training pairs separate their sides by the tokens that they keep.

    That is so if a bias per token (`token_bias_accuracy`) ranks at least 90 % of the pairs right under the mask, and at
    most 75 % of the whole responses: the loss then falls without the policy getting better at the preference.

    Args:
        pairs: encoded pairs with loss masks.
        prompts: `[pairs]` integers, equal for equal prompts.
    """
    tokens = SideTokens.of_pairs(pairs, prompts)
    kept = tokens.where(flat_sides(pairs, "mask").values)
    if len(np.unique(kept.prompts)) < FEWEST_PROMPTS:
        return
    masked, whole = token_bias_accuracy(kept), token_bias_accuracy(tokens)
    if masked >= SEPARATED and whole <= FAR:
        logger.warning(
            "segments: the loss mask separates the pairs by itself: a bias per token, without any context, ranks "
            "%.0f %% of them right under the mask and %.0f %% as whole responses. masked_rewards/... will rise without "
            "a better policy: follow rewards/accuracies, and smooth the token rewards or train a better reward model",
            100 * masked,
            100 * whole,
        )
