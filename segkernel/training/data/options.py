"""Options of rows, shared by the configs of the trainers and `segkernel inspect`."""

from dataclasses import dataclass, field

from segkernel.training.mixins import OptionsMixin


@dataclass
class RowOptions(OptionsMixin):
    """Treatment of rows that cannot be used."""

    _argument_group_name = "data"

    skip_bad_rows: bool = field(
        default=False,
        metadata={
            "help": "Skip malformed rows, count them and name the first; by default the first one ends the command "
            "with its line. Pairs with identical answers and too long ones are always skipped and counted."
        },
    )
