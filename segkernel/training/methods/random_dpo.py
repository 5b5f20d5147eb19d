"""DPO on a random choice of each response's tokens: the control of methods that select tokens or segments.

The loss is that of `dpo` on tokens that are chosen with a given probability. They are a function of the seed and the
row, so they are the same in every epoch.
"""

from dataclasses import dataclass, field

from datasets import Dataset

from segkernel.training.methods.dpo import DPOConfig, DPOTrainer
from segkernel.training.selection.options import RandomOptions, check_share
from segkernel.training.selection.pairs import log_selected, with_random_masks
from segkernel.training.trainer.base import Split

SPLITS: tuple[Split, ...] = ("train", "eval")  # their numbers are part of the key of the random numbers


@dataclass
class RandomDPOConfig(RandomOptions, DPOConfig):
    """Settings of `RandomDPOTrainer`."""

    rejected_share: float | None = field(
        default=None, metadata={"help": "The share of the rejected responses' tokens. Default: --share."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rejected_share is not None:
            check_share("rejected_share", self.rejected_share)

    @property
    def shares(self) -> tuple[float, float]:
        """Shares of the chosen and of the rejected responses."""
        return self.share, self.share if self.rejected_share is None else self.rejected_share


class RandomDPOTrainer(DPOTrainer):
    """DPO whose log-ratios are summed over random tokens. Its arguments are those of `DPOTrainer`."""

    args: RandomDPOConfig

    def prepare(self, dataset: Dataset, split: Split) -> Dataset:
        key = (self.args.seed, SPLITS.index(split))
        dataset = with_random_masks(
            dataset, self.args.shares, self.args.piece_length, key, self.data_collator, self.args
        )
        if split == "train":
            log_selected(dataset, "share")
        return super().prepare(dataset, split)
