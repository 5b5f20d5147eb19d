"""Reward models on the frozen trunk, learned from preferences between whole answers only."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, set_seed

from benchmarks.experiments.framework.jobs import Job
from benchmarks.experiments.pretrained.models import save_trained
from benchmarks.experiments.pretrained.workspace import PretrainedWorkspace
from segkernel.training import RewardConfig, RewardTrainer
from segkernel.training.rewards.reward_model import score_scale
from segkernel.training.trainer.progress_log import ProgressLog

Rows = list[dict[str, Any]]


def train_reward_model(
    work: PretrainedWorkspace, job: Job, rows: Rows, held_out: Rows
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Train and save a reward model. The result: pairs, accuracy on held-out ones, scale of its scores.

    Returns:
        The model, in evaluation mode, and the result.
    """
    settings = work.settings
    set_seed(work.seed)
    model = work.models.reward_model()
    steps = settings.reward_epochs * len(rows) // settings.batch_size
    options = work.trainer_options(job, steps=steps, learning_rate=settings.reward_learning_rate)
    config = RewardConfig(**options, **job.step.options)
    trainer = RewardTrainer(model, config, rows, held_out, work.tokenizer)
    trainer.remove_callback(ProgressLog)
    trainer.train()
    save_trained(model, work.job_folder(job))
    accuracy = trainer.evaluate()["eval_accuracy"]
    return model.eval(), {"pairs": len(rows), "accuracy": accuracy, "score_scale": score_scale(model)}
