"""Registry of the experiments by the name of their task."""

from __future__ import annotations

import importlib

from benchmarks.experiments.framework.experiment import Experiment

# Each module has an `EXPERIMENT`; importing it may need packages of its own.
MODULES = {
    "capitals": "benchmarks.experiments.capitals.experiment",
    "capitals-ppo": "benchmarks.experiments.capitals.ppo_experiment",
    "smollm2": "benchmarks.experiments.constraints.experiment",
    "smollm2-first-layers": "benchmarks.experiments.constraints.first_layers_experiment",
    "gsm8k": "benchmarks.experiments.gsm8k.experiment",
}


def load_experiment(task: str) -> Experiment:
    """The experiment on a task."""
    return importlib.import_module(MODULES[task]).EXPERIMENT
