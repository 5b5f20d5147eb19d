"""Methods on sampled responses: rejection sampling and PPO, each with its variants."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import segkernel
from benchmarks.experiments.capitals.preferences import ASR_OPTIONS, START, training
from benchmarks.experiments.capitals.stages import PAIRS, REWARD, SEGMENT_REWARD, TOKEN_REWARD
from benchmarks.experiments.capitals.workspace import CapitalsWorkspace
from benchmarks.experiments.framework.experiment import Method
from benchmarks.experiments.framework.jobs import Job, Need, Step
from benchmarks.experiments.policies.credit import TrainedResponse
from benchmarks.experiments.policies.rollouts import observe_rollouts
from benchmarks.experiments.policies.timing import timing
from benchmarks.experiments.policies.training import TrainedPolicy
from examples.capitals.pairs import is_well_formed
from examples.capitals.task import QUESTION, SEPARATOR, draw_countries, grade, prompt_text, token_credit
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
    """Response length of a complete answer without EOS, as in the reward model's pairs."""
    parts = work.settings.task.parts
    return {"max_new_tokens": 2 * parts, "max_prompt_length": 2 * parts + 1}


def rejection_sampling(
    work: CapitalsWorkspace, job: Job, *, trainer_type: type[RFTTrainer], config_type: type[RFTConfig]
) -> TrainedPolicy:
    model = work.policy()
    config = config_type(samples=4, **sampling_options(work), **work.policy_options(job))
    scorer = scoring_model(work, job)
    with timing((trainer_type, "accept")) as accepting:
        trainer = trainer_type(model, config, prompts(work), None, work.tokenizer, reward_model=scorer)
    train_and_save(trainer)
    responses = [
        graded_response(work.tokenizer, row["prompt_ids"], row["response_ids"], row.get("mask"), 1)
        for row in trainer.train_dataset
    ]
    return TrainedPolicy(model, [found for found in responses if found], accepting.seconds)


def proximal(
    work: CapitalsWorkspace, job: Job, *, trainer_type: type[PPOTrainer], config_type: type[PPOConfig]
) -> TrainedPolicy:
    trainer, model = ppo_trainer(work, job, trainer_type, config_type(**ppo_options(work, job)))
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
        **work.policy_options(job),
        **sampling_options(work),
        "max_steps": settings.ppo_steps,
        "rollout_epochs": settings.rollout_epochs,
        "kl_coef": settings.kl_coef,
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
    """Well-formed responses of a rollout; the verdict is the sign of the reward minus the rollout's mean."""
    rewards = rollout["sequence_rewards"]
    signs = (rewards - rewards.mean()).sign().int().tolist()
    response = rollout["response_mask"].bool()
    prompt = rollout["attention_mask"].bool() & ~response
    found = [
        graded_response(tokenizer, ids[p].tolist(), ids[r].tolist(), mask[r].tolist(), sign)
        for ids, p, r, mask, sign in zip(
            rollout["input_ids"], prompt, response, rollout["policy_mask"], signs, strict=True
        )
    ]
    return [one for one in found if one]


def graded_response(
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: list[int],
    response_ids: list[int],
    mask: list[bool] | None,
    sign: int,
) -> TrainedResponse | None:
    """A sampled response with its mask (`None`: all tokens); `None` for a malformed response."""
    countries = str(tokenizer.decode(prompt_ids)).removesuffix(QUESTION).split(SEPARATOR)
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(response_ids)]
    if not is_well_formed(tokens, len(countries)):
        return None
    credit = token_credit(tokens, grade(countries, "".join(tokens)))
    return TrainedResponse([True] * len(tokens) if mask is None else mask, credit, sign)


def online(
    name: str,
    train: Callable[[CapitalsWorkspace, Job], TrainedPolicy],
    baseline: Method,
    options: Mapping[str, Any],
    *,
    reward: Step = REWARD,
    decides: bool = False,
) -> Method:
    """A method on fresh prompts: only its rewards depend on the preference pairs."""
    return Method(
        name,
        training(train),
        uses=("rewards",),
        needs=(Need(PAIRS), Need(reward, {"pairs": "rewards"})),
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
ASR_RFT = online("asr-rft", asr_rft, RFT, {**FAST, **ASR_OPTIONS}, decides=True)
PPO = online("ppo", ppo, START, SLOW)
ASR_PPO = online("asr-ppo", asr_ppo, PPO, {**SLOW, **ASR_OPTIONS})
R3HF_PPO = online("r3hf-ppo", r3hf_ppo, PPO, SLOW)
SEGMENT_PPO = online("segment-ppo", segments, PPO, SLOW, reward=SEGMENT_REWARD)
TOKEN_PPO = online("token-ppo", tokens, PPO, SLOW, reward=TOKEN_REWARD)

ROLLOUT_METHODS = [RFT, ASR_RFT, PPO, ASR_PPO, R3HF_PPO, SEGMENT_PPO, TOKEN_PPO]
