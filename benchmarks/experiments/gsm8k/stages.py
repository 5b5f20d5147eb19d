"""Stages that methods share: the split into training and held-out pairs, and the reward model."""

from __future__ import annotations

from typing import Any

from benchmarks.experiments.framework.jobs import Job, Need, Step
from benchmarks.experiments.gsm8k.workspace import GSM8KWorkspace
from benchmarks.experiments.pretrained.rewards import train_reward_model


def pairs(work: GSM8KWorkspace, job: Job) -> dict[str, Any]:
    """Split and encode the pairs, and measure the start model on the held-out ones."""
    too_long = work.split()
    work.measure_start()
    return {"pairs": len(work.pairs("training")), "held_out": len(work.pairs("held_out")), "too_long": too_long}


def reward(work: GSM8KWorkspace, job: Job) -> dict[str, Any]:
    training = work.pairs("training")[: work.settings.reward_pairs]
    return train_reward_model(work, job, training, work.held_out_rows())[1]


PAIRS = Step("pairs", pairs)
REWARD = Step("reward", reward, needs=(Need(PAIRS),), options={"score": "sum"})
