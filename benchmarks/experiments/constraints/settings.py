"""Sizes of the experiment on the real model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.experiments.pretrained.settings import PretrainedSettings


@dataclass(frozen=True)
class ConstraintsSettings(PretrainedSettings):
    """Sizes of the data and of the trainings."""

    prompts: int = 160
    samples: int = 12
    held_out_prompts: int = 32
    held_out_samples: int = 8
    temperature: float = 0.8
    reward_pairs: int = 1500
    questions: int = 256

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
            policy_pairs=8,
            policy_steps=2,
            batch_size=4,
            questions=8,
            measured_pairs=8,
        )
