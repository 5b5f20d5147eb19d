"""Machine on which an experiment runs, for its results."""

from __future__ import annotations

import os
from typing import Any

import torch

from benchmarks.experiments.framework.experiment import Experiment
from benchmarks.machine import installed_versions, machine


def environment(experiment: Experiment) -> dict[str, Any]:
    """Machine with the versions of the packages; its GPU, if the experiment uses one."""
    here = {**machine(), "cores": str(os.cpu_count())}
    if experiment.uses_gpu and torch.cuda.is_available():
        here["gpu"] = torch.cuda.get_device_name()
    return {
        "machine": {**here, **installed_versions("transformers", "accelerate", *experiment.packages)},
        "packages": list(experiment.packages),
    }
