"""Rejection sampling on a random choice of tokens: the control of methods that select tokens or segments.

The likelihood is that of `rft` on tokens of the accepted responses that are chosen with a given probability. They are
a function of the seed and the row, so they are the same in every epoch.
"""

import logging
from dataclasses import dataclass

import numpy as np
from datasets import Dataset

from segkernel.training.data.columns import RESPONSES
from segkernel.training.data.tables import FlatLists, list_lengths, with_columns
from segkernel.training.methods.rft import RFTConfig, RFTTrainer
from segkernel.training.selection.options import RandomOptions
from segkernel.training.selection.random_tokens import random_tokens

logger = logging.getLogger(__name__)


@dataclass
class RandomRFTConfig(RandomOptions, RFTConfig):
    """Settings of `RandomRFTTrainer`."""


class RandomRFTTrainer(RFTTrainer):
    """Rejection sampling whose likelihood reads random tokens. Its arguments are those of `RFTTrainer`."""

    args: RandomRFTConfig

    def accept(self, samples: Dataset) -> Dataset:
        accepted, args = super().accept(samples), self.args
        lengths = list_lengths(accepted, "response_ids")
        rows = [random_tokens(n, args.share, args.piece_length, (args.seed, row)) for row, n in enumerate(lengths)]
        if not any(row.any() for row in rows):
            raise ValueError(
                "share: no token of any accepted response is selected, so there is nothing to train on; got "
                f"{args.share}"
            )
        masks = FlatLists(np.concatenate(rows), lengths)
        logger.warning(
            "selection: %.0f %% of the accepted responses' tokens are trained on; %d of %d responses keep no token",
            100 * masks.values.mean(),
            sum(not row.any() for row in rows),
            len(rows),
        )
        return with_columns(accepted, {"mask": masks.to_arrow()}, RESPONSES)
