"""Progress of loops on standard error: a bar in a terminal, a line from time to time in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm.auto import tqdm
from transformers.utils.import_utils import is_in_notebook

T = TypeVar("T")

SECONDS_PER_LINE = 30.0


class Progress:
    """Progress of a loop of known length.

    Args:
        description: name of the loop.
        total: number of its steps.
        bar: whether to draw a bar; otherwise a line is written every `SECONDS_PER_LINE`, with the remaining time.
        done: steps done before, by an earlier run.
    """

    def __init__(self, description: str, total: int, *, bar: bool, done: int = 0) -> None:
        self.description, self.total, self.first, self.done = description, total, done, done
        self.began = self.written = time.monotonic()
        self.lines = 0
        self.bar = None
        if bar:
            self.bar = tqdm(total=total, initial=done, desc=description, dynamic_ncols=True, leave=False)

    def update(self, done: int) -> None:
        """Set the number of steps done."""
        if self.bar is not None:
            self.bar.update(done - self.done)
        self.done = done
        now = time.monotonic()
        if self.bar is None and now - self.written >= SECONDS_PER_LINE and done < self.total:
            self.written, self.lines = now, self.lines + 1
            write_line(f"{self.description}: {done}/{self.total}  {self.speed()}")

    def speed(self, unit: str = "") -> str:
        """Rate and remaining time.

        Example:
            >>> progress = Progress("samples", 40, bar=False)
            >>> progress.began, progress.done = progress.began - 100, 10
            >>> progress.speed("step")
            '10 s/step  eta 5:00'
        """
        seconds, steps = time.monotonic() - self.began, self.done - self.first
        if not steps or not seconds:
            return ""
        return f"{rate(steps / seconds, unit)}  eta {duration(seconds / steps * (self.total - self.done))}"

    def close(self) -> None:
        """Remove the bar, or write the time that the loop took if a line has been written."""
        if self.bar is not None:
            self.bar.close()
        elif self.lines:
            write_line(f"{self.description}: {self.done} in {duration(time.monotonic() - self.began)}")


def track(items: Iterable[T], description: str | None, *, total: int, disable_tqdm: bool | None) -> Iterator[T]:
    """Iterate over items and show the progress; `None` as the description shows nothing."""
    if description is None:
        yield from items
        return
    progress = Progress(description, total, bar=shows_bars(disable_tqdm))
    for done, item in enumerate(items, 1):
        yield item
        progress.update(done)
    progress.close()


def shows_bars(disable_tqdm: bool | None) -> bool:
    """Whether progress is shown by bars: in a terminal or a notebook, unless `--disable_tqdm` is set."""
    return not disable_tqdm and (sys.stderr.isatty() or is_in_notebook())


def write_line(text: str) -> None:
    """Write a line to standard error, above the bars that are drawn there."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, or seconds with their unit.

    Example:
        >>> duration(0.31), duration(59.4), duration(125), duration(3 * 3600 + 61)
        ('0.3 s', '59 s', '2:05', '3:01:01')
    """
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 0.95 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def rate(per_second: float, unit: str) -> str:
    """Steps per second, or seconds per step where these are more than one.

    Example:
        >>> rate(1.3, "step"), rate(0.25, "step"), rate(42.68, "")
        ('1.3 steps/s', '4 s/step', '43/s')
    """
    if per_second >= 1:
        return f"{short(per_second, 2)}{f' {unit}s' if unit else ''}/s"
    return f"{short(1 / per_second, 2)} s/{unit or 'item'}"


def short(value: float, digits: int = 3) -> str:
    """Number with few significant digits and a short exponent.

    Example:
        >>> short(0.51234), short(9e-06), short(12), short(1234.6, 2), short(float("nan"))
        ('0.512', '9e-6', '12', '1235', 'nan')
    """
    if value == value and 10**digits <= abs(value) < 1e6:
        return f"{value:.0f}"
    text = f"{value:.{digits}g}"
    return text.replace("e-0", "e-").replace("e+0", "e")
