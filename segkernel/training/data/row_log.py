"""Counts of the rows of a data set that are dropped, changed or unusual, each logged once."""

import logging
import re
from collections import defaultdict
from collections.abc import Iterable

logger = logging.getLogger(__name__)

SHOWN = 3  # rows named in a message


class RowError(ValueError):
    """Error in one row; the message names the row."""


class RowLog:
    """Collects the messages about the rows of one data set.

    Args:
        name: name of the data set in messages.
        skip_bad_rows: whether `bad` counts a row instead of raising its error.

    Attributes:
        rows: number of rows that the data set had.
    """

    def __init__(self, name: str, *, skip_bad_rows: bool = False) -> None:
        self.name, self.skip_bad_rows = name, skip_bad_rows
        self.rows = 0
        self.errors: list[str] = []
        self.places: dict[str, list[str]] = defaultdict(list)
        self.unread: set[str] = set()

    def bad(self, error: ValueError) -> None:
        """Count a row that cannot be used.

        Raises:
            ValueError: `error`, unless bad rows are skipped.
        """
        if not self.skip_bad_rows:
            raise error
        self.errors.append(self._short(str(error)))

    def count(self, message: str, place: str) -> None:
        """Count a row under a message, such as "blank prompts"."""
        self.places[message].append(self._short(place))

    def not_read(self, columns: Iterable[str]) -> None:
        """Note columns of a row that nothing reads."""
        self.unread.update(columns)

    def write(self) -> None:
        """Log every count once."""
        if self.errors:
            logger.warning("%s: skipped bad rows: %s", self.name, self._named(self.errors, "; "))
        for message, places in self.places.items():
            logger.warning("%s: %s: %s", self.name, message, self._named(places, ", "))
        if self.unread:
            logger.warning("%s: columns that are not read: %s", self.name, ", ".join(sorted(self.unread)))

    def _named(self, items: list[str], separator: str) -> str:
        more = f"{separator}..." if len(items) > SHOWN else ""
        return f"{len(items)} of {self.rows} ({separator.join(items[:SHOWN])}{more})"

    def _short(self, text: str) -> str:
        """Message without the name of the data set: "[3]", "line 7"."""
        return re.sub(r"^[:, ]*(the \w+ of )?", "", text.removeprefix(self.name))
