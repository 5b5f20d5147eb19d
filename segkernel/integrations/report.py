"""Reports of `patch` and `status`: rows that print as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class PatchRow(NamedTuple):
    """One target of `patch`: its dotted name, the framework and its version, and whether it is swapped, or why not."""

    target: str
    version: str
    swapped: bool
    reason: str


class StatusRow(NamedTuple):
    """Calls of one swapped target: how many segkernel served, and how many the original function did, by reason."""

    target: str
    served: int
    passed_back: dict[str, int]


@dataclass(frozen=True)
class PatchReport:
    """Result of `patch`."""

    rows: tuple[PatchRow, ...]

    @property
    def swapped(self) -> list[str]:
        """Targets that now run segkernel's operators."""
        return [row.target for row in self.rows if row.swapped]

    @property
    def kept(self) -> dict[str, str]:
        """Reason for every target that was left as it is."""
        return {row.target: row.reason for row in self.rows if not row.swapped}

    def __str__(self) -> str:
        cells = [
            (
                row.target,
                row.version,
                ("swapped" if row.swapped else "kept") + (f" ({row.reason})" if row.reason else ""),
            )
            for row in self.rows
        ]
        return table(("target", "version", "result"), cells)


@dataclass(frozen=True)
class StatusReport:
    """Result of `status`."""

    rows: tuple[StatusRow, ...]

    def __str__(self) -> str:
        if not self.rows:
            return "nothing is patched"
        cells = [
            (
                row.target,
                str(row.served),
                ", ".join(f"{count} ({why})" for why, count in row.passed_back.items()) or "0",
            )
            for row in self.rows
        ]
        return table(("target", "calls served", "calls passed back"), cells)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in columns under a header.

    Example:
        >>> print(table(("target", "version"), [("f", "1.2")]))
        target  version
        f       1.2
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows))
    return "\n".join(line.rstrip() for line in lines)
