"""Sizes of the experiment, and the folder that a run of this size works in."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from examples.capitals.pipeline import Settings as TaskSettings

TASK = TaskSettings(
    parts=4,
    key=True,
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
    """The same steps, batches and data for every method; learning rates are each method's own.

    With more steps than these the baselines come near every part right, and little is left to compare.
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
        """Small enough to see everything work; too small for the comparison to mean anything."""
        task = replace(self.task, prompts=1500, held_out_prompts=400, start_steps=80, reward_steps=60, policy_steps=10)
        return replace(self, seeds=(1, 2), task=task, policy_pairs=200, ppo_steps=8, questions=100, thin_sweeps=True)

    def folder(self, output: Path) -> Path:
        """Runs of other settings work in other folders, so that no results mix; other seeds make no other run."""
        text = json.dumps({**asdict(self), "seeds": ()}, sort_keys=True)
        return output / hashlib.sha256(text.encode()).hexdigest()[:12]

    def of_seed(self, seed: int) -> TaskSettings:
        return replace(self.task, seed=seed)
