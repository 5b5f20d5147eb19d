"""Options of the methods that train on a selection of each response's tokens."""

import math
from dataclasses import dataclass, field

from segkernel import _validate
from segkernel.training.mixins import OptionsMixin


@dataclass
class RandomOptions(OptionsMixin):
    """Share of the tokens that are chosen at random, and the length of the pieces that they are chosen in."""

    _argument_group_name = "selection"

    share: float = field(default=0.5, metadata={"help": "Expected share of the response tokens that are trained on."})
    piece_length: float = field(
        default=1.0,
        metadata={
            "help": "Mean length of the pieces that are chosen or dropped as a whole, in tokens. 1: every token by "
            "itself; larger: the control of a method on segments of this length."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("share", self.share)
        if not 1 <= self.piece_length < math.inf:
            raise ValueError(f"piece_length: expected a finite number >= 1, got {self.piece_length}")


def check_share(name: str, value: float) -> None:
    """Refuse a share of tokens that is not in (0, 1]."""
    if not 0 < value <= 1:
        raise ValueError(f"{name}: expected 0 < {name} <= 1, got {value}")


@dataclass
class PairReportOptions(OptionsMixin):
    """Size of the report of a run on pairs."""

    report_pairs: int = field(default=6, metadata={"help": "Pairs that report.html shows with their tokens' scores."})

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.minimum("report_pairs", self.report_pairs, 0)
