"""Stages that methods share: sampled answers and reward models."""

from __future__ import annotations

from typing import Any

from benchmarks.experiments.constraints.answers import sample_answers, shares_met
from benchmarks.experiments.constraints.measures import violations_found
from benchmarks.experiments.constraints.workspace import ConstraintsWorkspace
from benchmarks.experiments.framework.jobs import Job, Need, Step
from benchmarks.experiments.pretrained.rewards import train_reward_model


def answers(work: ConstraintsWorkspace, job: Job) -> dict[str, Any]:
    """Sample answers to training prompts and to held-out prompts from the start model."""
    settings, policy = work.settings, work.policy()
    for offset, (name, count, samples) in enumerate(
        (
            ("training", settings.prompts, settings.samples),
            ("held-out", settings.held_out_prompts, settings.held_out_samples),
        )
    ):
        prompts = work.prompts(name, count, held_out=name == "held-out")
        found = sample_answers(
            policy,
            work.tokenizer,
            prompts,
            seed=2 * work.seed + offset,
            samples=samples,
            temperature=settings.temperature,
        )
        work.write_answers(name, list(zip(prompts, found, strict=True)))
    sampled = [one for _, found in work.answers("training") for one in found]
    return {
        "pairs": len(work.pairs("all")),
        "adversarial": len(work.pairs("adversarial")),
        "well_formed": sum(one.is_well_formed for one in sampled) / len(sampled),
        **shares_met(sampled),
    }


def reward(work: ConstraintsWorkspace, job: Job) -> dict[str, Any]:
    pairs, held_out = work.pairs(job.sources["pairs"])[: work.settings.reward_pairs], work.pairs("held out")
    model, result = train_reward_model(work, job, work.rows(pairs), work.rows(held_out))
    return {**result, "violations_found": violations_found(work, model, held_out)}


ANSWERS = Step("answers", answers)
REWARD = Step("reward", reward, uses=("pairs",), needs=(Need(ANSWERS),), options={"score": "sum"})
