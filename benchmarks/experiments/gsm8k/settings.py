"""Sizes of the experiment on GSM8K."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.experiments.framework.data import DataSettings
from benchmarks.experiments.pretrained.settings import PretrainedSettings


@dataclass(frozen=True)
class GSM8KSettings(PretrainedSettings, DataSettings):
    """Sizes of the data and of the trainings.

    Args:
        held_out_problems: share of the problems whose pairs are held out.
        max_length: most tokens of a problem with one of its solutions; longer pairs are dropped, and counted.
        micro_batch: pairs in a forward and backward pass on a CPU.
        measured_answers: right held-out solutions on which the divergence from the start model is measured.
    """

    held_out_problems: float = 0.2
    max_length: int = 384
    reward_pairs: int = 320
    policy_pairs: int = 192
    policy_steps: int = 12
    micro_batch: int = 4
    measured_pairs: int = 160
    measured_answers: int = 48

    def quick(self) -> GSM8KSettings:
        return replace(
            super().quick(),
            seeds=self.seeds[:1],
            tuning_seeds=self.tuning_seeds[:1],
            max_length=224,
            reward_pairs=16,
            reward_epochs=1,
            policy_pairs=8,
            policy_steps=1,
            batch_size=8,
            measured_pairs=8,
            measured_answers=4,
        )
