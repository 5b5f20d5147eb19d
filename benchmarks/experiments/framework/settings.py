"""Settings that every experiment has, and the folder of a run with these settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class Settings:
    """Seeds of an experiment; a subclass adds the sizes of its data and trainings.

    Candidates are compared on the tuning seeds. Methods are compared on the others, which no choice has used.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tuning_seeds: tuple[int, ...] = (100, 101, 102, 103, 104)
    thin_questions: bool = False  # only the first and the last candidate of every question

    def quick(self) -> Self:
        """Sizes for a test of the program; too small for a meaningful comparison. A subclass reduces its own sizes."""
        return replace(self, seeds=self.seeds[:2], tuning_seeds=self.tuning_seeds[:2], thin_questions=True)

    def folder(self, output: Path) -> Path:
        """Folder named by a hash of the settings except the seeds, so that results of different settings never mix."""
        decisive = {name: value for name, value in asdict(self).items() if name not in ("seeds", "tuning_seeds")}
        return output / hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]
