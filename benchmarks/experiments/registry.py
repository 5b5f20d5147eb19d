"""Every step of the experiment by its name."""

from __future__ import annotations

from benchmarks.experiments.ablations import ABLATIONS
from benchmarks.experiments.methods import METHODS
from benchmarks.experiments.stages import STAGES
from benchmarks.experiments.tasks import Step

STEPS: dict[str, Step] = {step.name: step for step in (*STAGES, *METHODS, *ABLATIONS)}
