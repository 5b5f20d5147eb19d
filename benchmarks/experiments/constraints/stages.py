"""Stages that methods share: sampled answers and reward models."""

from __future__ import annotations

from typing import Any

from transformers import set_seed

from benchmarks.experiments.constraints.answers import sample_answers, shares_met
from benchmarks.experiments.constraints.models import save_trained
from benchmarks.experiments.constraints.workspace import ConstraintsWorkspace
from benchmarks.experiments.framework.jobs import Job, Need, Step
from segkernel.training import RewardConfig, RewardTrainer
from segkernel.training.trainer.progress_log import ProgressLog


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
    """Train a reward model from preferences between whole answers only."""
    settings, pairs = work.settings, work.pairs(job.sources["pairs"])[: work.settings.reward_pairs]
    set_seed(work.seed)
    model = work.models.reward_model()
    steps = settings.reward_epochs * len(pairs) // settings.batch_size
    options = work.trainer_options(job, steps=steps, learning_rate=settings.reward_learning_rate)
    trainer = RewardTrainer(
        model,
        RewardConfig(**options, **job.step.options),
        work.rows(pairs),
        work.rows(work.pairs("held out")),
        work.tokenizer,
    )
    trainer.remove_callback(ProgressLog)
    trainer.train()
    save_trained(model, work.job_folder(job))
    return {"pairs": len(pairs), "accuracy": trainer.evaluate()["eval_accuracy"]}


ANSWERS = Step("answers", answers)
REWARD = Step("reward", reward, uses=("pairs",), needs=(Need(ANSWERS),), options={"score": "sum"})
