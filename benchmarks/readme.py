"""What the reports share: times as people write them, and the README's generated parts."""

from __future__ import annotations

from pathlib import Path


def readable(seconds: float) -> str:
    units = (("s", 1), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9))
    unit, factor = next(((unit, factor) for unit, factor in units if seconds * factor >= 1), units[-1])
    return f"{seconds * factor:.3g} {unit}"


def replace_between(readme: Path, marks: tuple[str, str], text: str) -> None:
    before, _, rest = readme.read_text().partition(marks[0])
    _, _, after = rest.partition(marks[1])
    readme.write_text(f"{before}{marks[0]}\n{text}\n{marks[1]}{after}")
