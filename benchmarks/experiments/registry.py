"""Registry of all steps by name."""

from __future__ import annotations

from benchmarks.experiments.ablations import ABLATIONS
from benchmarks.experiments.methods import PREFERENCE_METHODS, REVERSE_DPO, Method
from benchmarks.experiments.rollouts import ROLLOUT_METHODS
from benchmarks.experiments.stages import STAGES
from benchmarks.experiments.steps import Step

METHODS: list[Method] = [*PREFERENCE_METHODS, *ROLLOUT_METHODS]
STEPS: dict[str, Step] = {step.name: step for step in (*STAGES, REVERSE_DPO, *METHODS, *ABLATIONS)}
