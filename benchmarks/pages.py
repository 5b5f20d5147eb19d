"""Generated parts of documentation pages."""

from __future__ import annotations

from pathlib import Path


def readable(seconds: float) -> str:
    """A duration with three significant digits in a fitting unit.

    Example:
        >>> readable(0.0123), readable(2e-7)
        ('12.3 ms', '200 ns')
    """
    units = (("s", 1), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9))
    unit, factor = next(((unit, factor) for unit, factor in units if seconds * factor >= 1), units[-1])
    return f"{seconds * factor:.3g} {unit}"


def replace_between(page: Path, markers: tuple[str, str], text: str) -> None:
    """Replace what stands between two marker lines of a page.

    Raises:
        ValueError: the page lacks a marker; it is left as it was.
    """
    before, first, rest = page.read_text(encoding="utf-8").partition(markers[0])
    _, second, after = rest.partition(markers[1])
    if not first or not second:
        raise ValueError(f"{page.name}: expected the markers {markers[0]} and {markers[1]}, got a page without them")
    page.write_text(f"{before}{first}\n{text}\n{second}{after}", encoding="utf-8")
