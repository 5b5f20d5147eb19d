"""Settings of the experiment, and the folder of a run with these settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from examples.capitals.training import Settings as TaskSettings

TASK = TaskSettings(
    parts=4,
    mistakes=(0.2, 0.4, 0.6, 0.8),
    prompts=16000,
    held_out_prompts=4000,
    reward_steps=800,
    reward_batch_size=64,
    policy_steps=40,
    beta=0.3,
)


@dataclass(frozen=True)
class Settings:
    """Steps, batch sizes and data shared by every method; each method has its own learning rate.

    The number of steps is small on purpose: with more, the baselines get nearly every part right.
    """

    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    task: TaskSettings = TASK
    policy_pairs: int = 1000
    policy_batch_size: int = 32
    ppo_steps: int = 80
    rollout_epochs: int = 2
    kl_coef: float = 0.05
    questions: int = 1000
    thin_sweeps: bool = False

    def quick(self) -> Settings:
        """Sizes for a test of the program; too small for a meaningful comparison."""
        task = replace(self.task, prompts=1500, held_out_prompts=400, start_steps=80, reward_steps=60, policy_steps=10)
        return replace(self, seeds=(1, 2), task=task, policy_pairs=200, ppo_steps=8, questions=100, thin_sweeps=True)

    def folder(self, output: Path) -> Path:
        """Folder named by a hash of the settings except the seeds, so that results of different settings never mix."""
        text = json.dumps({**asdict(self), "seeds": ()}, sort_keys=True)
        return output / hashlib.sha256(text.encode()).hexdigest()[:12]

    def of_seed(self, seed: int) -> TaskSettings:
        return replace(self.task, seed=seed)
