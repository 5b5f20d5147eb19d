"""Stages that methods share: start model, pairs, reward models, a model of preferred answers."""

from __future__ import annotations

from typing import Any

from transformers import set_seed

from benchmarks.experiments.capitals.workspace import CapitalsWorkspace
from benchmarks.experiments.framework.jobs import Job, Need, Step
from examples.capitals.pairs import is_well_formed, sample_pairs
from examples.capitals.task import prompt_text
from examples.capitals.training import (
    REWARD_LEARNING_RATE,
    train_and_save,
    train_reward_model,
    train_start,
    trainer_options,
)
from segkernel.training import PretrainConfig, PretrainTrainer, SegmentRewardConfig, SegmentRewardTrainer
from segkernel.training.models import ModelArguments, load_reward_model

HELD_OUT_FOR_REWARD = 1000


def start(work: CapitalsWorkspace, job: Job) -> dict[str, Any]:
    train_start(work.start_folder, work.task_settings, work.tokenizer)
    return {}


def pairs(work: CapitalsWorkspace, job: Job) -> dict[str, Any]:
    """Sample pairs from the start model and rank them by the verifier, which weighs the starred part most."""
    settings, first = work.task_settings, 1000 * work.seed
    counts = {}
    for offset, (name, prompts) in enumerate((("training", settings.prompts), ("held-out", settings.held_out_prompts))):
        found = sample_pairs(work.policy(), work.tokenizer, prompts, parts=settings.parts, seed=first + offset)
        work.write_pairs(name, found)
        counts[name] = len(found)
    return {**counts, "adversarial": len(work.pairs("adversarial")), "held_out": len(work.adversarial_held_out())}


def reward(work: CapitalsWorkspace, job: Job) -> dict[str, Any]:
    """Train a reward model from preferences between whole answers only."""
    found = work.pairs(job.sources["pairs"])
    trainer = train_reward_model(
        work.job_folder(job),
        work.start_folder,
        work.task_settings,
        work.tokenizer,
        found,
        work.pairs("held out")[:HELD_OUT_FOR_REWARD],
    )
    return {"pairs": len(found), "accuracy": trainer.evaluate()["eval_accuracy"]}


def segment_reward(work: CapitalsWorkspace, job: Job) -> dict[str, Any]:
    """Train a segment reward model, read at the end of every segment, with the same budget."""
    settings, tokenizer = work.task_settings, work.tokenizer
    rows, held_out = (work.rows(work.pairs(source)) for source in (job.sources["pairs"], "held out"))
    set_seed(settings.seed)
    options = trainer_options(
        settings, steps=settings.reward_steps, batch_size=settings.reward_batch_size, learning_rate=REWARD_LEARNING_RATE
    )
    trainer = SegmentRewardTrainer(
        load_reward_model(ModelArguments(model=str(work.start_folder)), tokenizer),
        SegmentRewardConfig(output_dir=str(work.job_folder(job)), **job.step.options, **options),
        rows,
        held_out[:HELD_OUT_FOR_REWARD],
        tokenizer,
        ref_model=work.policy(),
    )
    train_and_save(trainer)
    metrics = trainer.evaluate()
    return {
        "pairs": len(rows),
        "accuracy": metrics["eval_accuracy"],
        "segments": (metrics["eval_segments/chosen"] + metrics["eval_segments/rejected"]) / 2,
    }


def preferred_answers(work: CapitalsWorkspace, job: Job) -> dict[str, Any]:
    """Train the start model on the preferred answers that are complete: a language model of clean answers."""
    settings, tokenizer = work.task_settings, work.tokenizer
    rows = [
        {"prompt": prompt_text(pair.countries), "completion": pair.chosen}
        for pair in work.pairs(job.sources["pairs"])
        if is_well_formed(tokenizer.tokenize(pair.chosen), settings.parts)
    ]
    set_seed(settings.seed)
    options = trainer_options(
        settings, steps=settings.policy_steps, batch_size=work.settings.policy_batch_size, **job.step.options
    )
    # Prompt with star, answer and EOS have the same number of tokens in every row: one answer per block.
    config = PretrainConfig(output_dir=str(work.job_folder(job)), max_length=4 * settings.parts + 2, **options)
    train_and_save(PretrainTrainer(work.policy(), config, rows, processing_class=tokenizer))
    return {"answers": len(rows)}


# The start model's entropy is at least 0.5 nats where a city begins and near 0 where a separator does.
CITY_ENTROPY = 0.3

START_MODEL = Step("start", start)
PAIRS = Step("pairs", pairs, needs=(Need(START_MODEL),))
PREFERRED = Step("preferred answers", preferred_answers, ("pairs",), (Need(PAIRS),), options={"learning_rate": 1e-3})
REWARD = Step("reward", reward, uses=("pairs",), needs=(Need(PAIRS),))
SEGMENT_REWARD, TOKEN_REWARD = (
    Step(name, segment_reward, uses=("pairs",), needs=(Need(PAIRS),), options={"entropy_threshold": threshold})
    for name, threshold in (("segment reward", CITY_ENTROPY), ("token reward", 0.0))
)
