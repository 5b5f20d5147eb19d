"""Methods on sampled responses: rejection sampling and PPO, each with its variants."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import segkernel
from benchmarks.experiments.capitals.grading import graded, graded_samples, well_formed
from benchmarks.experiments.capitals.preferences import ASR_OPTIONS, NO_OPTIONS, START, training
from benchmarks.experiments.capitals.stages import PAIRS, REWARD, SEGMENT_REWARD, TOKEN_REWARD
from benchmarks.experiments.capitals.workspace import CapitalsWorkspace
from benchmarks.experiments.framework.experiment import Method
from benchmarks.experiments.framework.jobs import Job, Need, Step
from benchmarks.experiments.policies.advantages import ADVANTAGES, UNCHANGED
from benchmarks.experiments.policies.credit import TrainedResponse
from benchmarks.experiments.policies.rollouts import observe_rollouts, verdict_signs
from benchmarks.experiments.policies.timing import timing
from benchmarks.experiments.policies.training import TrainedPolicy
from examples.capitals.task import draw_countries, prompt_text
from examples.capitals.training import train_and_save
from segkernel.training import (
    ASRPPOConfig,
    ASRPPOTrainer,
    ASRRFTConfig,
    ASRRFTTrainer,
    PPOConfig,
    PPOTrainer,
    R3HFPPOConfig,
    R3HFPPOTrainer,
    RFTConfig,
    RFTTrainer,
    SegmentPPOConfig,
    SegmentPPOTrainer,
    TokenPPOConfig,
)
from segkernel.training.methods import segment_ppo as segment_ppo_module
from segkernel.training.models import load_scoring_model
from segkernel.training.segmentation.entropy import Segmenter, load_segmenter


def prompts(work: CapitalsWorkspace) -> list[dict[str, str]]:
    """Training prompts of a seed."""
    rng = random.Random(f"prompts {work.seed}")
    parts = work.settings.task.parts
    return [{"prompt": prompt_text(draw_countries(rng, parts))} for _ in range(work.settings.policy_pairs)]


def sampling_options(work: CapitalsWorkspace) -> dict[str, Any]:
    """Length of a complete answer with its EOS."""
    parts = work.settings.task.parts
    return {"max_new_tokens": 2 * parts + 1, "max_prompt_length": 2 * parts + 1}


def rejection_trainer(
    work: CapitalsWorkspace,
    job: Job,
    trainer_type: Callable[..., Any],
    config_type: Callable[..., Any],
    *,
    options: Mapping[str, Any] = NO_OPTIONS,
    **inputs: Any,
) -> Any:
    """A trainer that has sampled and scored the responses to the seed's prompts."""
    config = config_type(samples=4, **sampling_options(work), **work.policy_options(job), **options)
    scorer = scoring_model(work, job)
    return trainer_type(work.policy(), config, prompts(work), None, work.tokenizer, reward_model=scorer, **inputs)


def trained_on_samples(work: CapitalsWorkspace, trainer: Any, segmenting: float = 0.0) -> TrainedPolicy:
    """Train; the masks of the trainer's rows are the tokens trained on."""
    train_and_save(trainer)
    rows, tokenizer = trainer.train_dataset, work.tokenizer
    responses = [
        graded(tokenizer, row["prompt_ids"], row["response_ids"], mask_of(row), 1)
        for row in rows
        if well_formed(tokenizer, row["prompt_ids"], row["response_ids"])
    ]
    measures = {}
    if "segments" in rows.column_names:
        segments, tokens = sum(rows["segments"]), sum(map(len, rows["response_ids"]))
        measures = {"segments": segments / len(rows), "segment_length": tokens / segments}
    return TrainedPolicy(trainer.model, responses, segmenting, measures)


def mask_of(row: Mapping[str, Any]) -> Sequence[bool]:
    return row.get("mask") or [True] * len(row["response_ids"])


def rejection_sampling(
    work: CapitalsWorkspace, job: Job, *, trainer_type: type[RFTTrainer], config_type: type[RFTConfig]
) -> TrainedPolicy:
    with timing((trainer_type, "accept")) as accepting:
        trainer = rejection_trainer(work, job, trainer_type, config_type)
    return trained_on_samples(work, trainer, accepting.seconds)


def proximal(
    work: CapitalsWorkspace, job: Job, *, trainer_type: type[PPOTrainer], config_type: type[PPOConfig], **options: Any
) -> TrainedPolicy:
    given = {**ppo_options(work, job), **options}
    advantages = ADVANTAGES[given.pop("advantages", UNCHANGED)]
    config = config_type(**given, **advantages.options)
    trainer, model = ppo_trainer(work, job, advantages.of(trainer_type), config)
    return train_ppo(work, trainer, model, (trainer, "token_rewards"), (trainer, "policy_mask"))


def segment_ppo(work: CapitalsWorkspace, job: Job, *, config_type: type[SegmentPPOConfig]) -> TrainedPolicy:
    segmenter = load_segmenter(reward_folder(work, job))
    config = config_type(**ppo_options(work, job))
    trainer, model = ppo_trainer(work, job, SegmentPPOTrainer, config, segmenter=segmenter)
    return train_ppo(
        work,
        trainer,
        model,
        (segment_ppo_module, "token_entropy"),
        (segment_ppo_module, "rewards_at_segment_ends"),
        (segkernel, "segment_by_entropy"),
        (Segmenter, "normalize"),
        (trainer, "token_rewards"),
    )


def reward_folder(work: CapitalsWorkspace, job: Job) -> Path:
    """Folder of the reward model that gives a job's rewards."""
    kinds = {step.name for step in (REWARD, SEGMENT_REWARD, TOKEN_REWARD)}
    return work.job_folder(next(need for need in job.needs if need.step.name in kinds))


def scoring_model(work: CapitalsWorkspace, job: Job) -> nn.Module:
    return load_scoring_model(str(reward_folder(work, job)), work.tokenizer)


def ppo_options(work: CapitalsWorkspace, job: Job) -> dict[str, Any]:
    settings = work.settings
    return {
        "kl_coef": settings.kl_coef,
        **work.policy_options(job),
        **sampling_options(work),
        "max_steps": settings.ppo_steps,
        "rollout_epochs": settings.rollout_epochs,
    }


def ppo_trainer(
    work: CapitalsWorkspace, job: Job, trainer_type: type[PPOTrainer], config: PPOConfig, **options: Any
) -> tuple[PPOTrainer, PreTrainedModel]:
    """A trainer with the job's reward model, and its policy."""
    model, scorer = work.policy(), scoring_model(work, job)
    return trainer_type(model, config, prompts(work), None, work.tokenizer, reward_model=scorer, **options), model


def train_ppo(
    work: CapitalsWorkspace, trainer: PPOTrainer, model: PreTrainedModel, *making_segments: tuple[Any, str]
) -> TrainedPolicy:
    """Train, and time the functions that make segments, rewards and masks."""
    with timing(*making_segments) as segmenting:
        rollouts = observe_rollouts(trainer)
        train_and_save(trainer)
    responses = [found for rollout in rollouts for found in graded_rollout(work.tokenizer, rollout)]
    return TrainedPolicy(model, responses, segmenting.seconds)


def graded_rollout(tokenizer: PreTrainedTokenizerBase, rollout: dict[str, Tensor]) -> list[TrainedResponse]:
    """Well-formed responses of a rollout with the tokens of its policy loss."""
    return graded_samples(tokenizer, rollout, "policy_mask", verdict_signs(rollout).__getitem__)


def online(
    name: str,
    train: Callable[[CapitalsWorkspace, Job], TrainedPolicy],
    baseline: Method,
    options: Mapping[str, Any],
    *,
    reward: Step = REWARD,
    needs: tuple[Need, ...] = (),
    decides: bool = False,
) -> Method:
    """A method on fresh prompts: only its rewards depend on the preference pairs."""
    return Method(
        name,
        training(train),
        uses=("rewards",),
        needs=(Need(PAIRS), Need(reward, {"pairs": "rewards"}), *needs),
        options=options,
        baseline=baseline,
        decides=decides,
    )


rft = partial(rejection_sampling, trainer_type=RFTTrainer, config_type=RFTConfig)
asr_rft = partial(rejection_sampling, trainer_type=ASRRFTTrainer, config_type=ASRRFTConfig)
ppo = partial(proximal, trainer_type=PPOTrainer, config_type=PPOConfig)
asr_ppo = partial(proximal, trainer_type=ASRPPOTrainer, config_type=ASRPPOConfig)
r3hf_ppo = partial(proximal, trainer_type=R3HFPPOTrainer, config_type=R3HFPPOConfig)
segments = partial(segment_ppo, config_type=SegmentPPOConfig)
tokens = partial(segment_ppo, config_type=TokenPPOConfig)

FAST, SLOW = {"learning_rate": 1e-3}, {"learning_rate": 3e-4}
RFT = online("rft", rft, START, FAST, decides=True)
ASR_RFT = online("asr-rft", asr_rft, RFT, {**ASR_OPTIONS, "learning_rate": 3e-3}, decides=True)
PPO = online("ppo", ppo, START, SLOW)
ASR_PPO = online("asr-ppo", asr_ppo, PPO, {**SLOW, **ASR_OPTIONS})
R3HF_PPO = online("r3hf-ppo", r3hf_ppo, PPO, SLOW)
SEGMENT_PPO = online("segment-ppo", segments, PPO, FAST, reward=SEGMENT_REWARD)
TOKEN_PPO = online("token-ppo", tokens, PPO, SLOW, reward=TOKEN_REWARD)

RFT_METHODS = [RFT, ASR_RFT]
PPO_METHODS = [PPO, ASR_PPO, R3HF_PPO, SEGMENT_PPO, TOKEN_PPO]
