"""PPO and its variants, on answers that the policy gives to prompts of the task during training."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.experiments.constraints.answers import MAX_TOKENS, prompt_ids
from benchmarks.experiments.constraints.form_penalty import with_form_penalty
from benchmarks.experiments.constraints.preferences import LEARNING_RATE, START, training
from benchmarks.experiments.constraints.rejection import NEEDS, reward_job
from benchmarks.experiments.constraints.workspace import ConstraintsWorkspace
from benchmarks.experiments.framework.experiment import Method
from benchmarks.experiments.framework.jobs import Job, Need
from benchmarks.experiments.policies.advantages import ADVANTAGES, UNCHANGED
from benchmarks.experiments.policies.rollouts import (
    observe_rollouts,
    observe_selection,
    row_tokens,
    signs_by_tokens,
    trained_responses,
    verdict_signs,
)
from benchmarks.experiments.policies.timing import timing
from benchmarks.experiments.policies.training import TrainedPolicy, segment_options
from benchmarks.experiments.pretrained.preferences import fit
from segkernel.training import (
    ASRPPOConfig,
    ASRPPOTrainer,
    EntropyPPOConfig,
    EntropyPPOTrainer,
    PPOConfig,
    PPOTrainer,
    RandomPPOConfig,
    RandomPPOTrainer,
)
from segkernel.training.models.response_tokens import ResponseTokens

MINIBATCHES = 2


def ppo_trainer(
    work: ConstraintsWorkspace, job: Job, trainer_type: type[PPOTrainer], config_type: type[PPOConfig], **options: Any
) -> PPOTrainer:
    """A trainer with as many responses as there are pairs in the methods on pairs; `options` on top of the job's."""
    settings = work.settings
    given = {**work.policy_options(job), **options}
    advantages, penalty = ADVANTAGES[given.pop("advantages")], given.pop("malformed_penalty")
    bound: Any = advantages.of(trainer_type)
    responses = MINIBATCHES * settings.batch_size
    rollouts = settings.policy_pairs // responses
    steps = rollouts * MINIBATCHES * given["rollout_epochs"]
    given |= {"max_steps": steps, "warmup_steps": steps // 10, **advantages.options}
    config = config_type(minibatches=MINIBATCHES, max_new_tokens=MAX_TOKENS, temperature=settings.temperature, **given)
    prompts = work.prompts("rollouts", rollouts * responses)
    policy, tokenizer = work.policy(), work.tokenizer
    tokens = ResponseTokens.of(policy, tokenizer, pad_id=tokenizer.pad_token_id)
    trainer: PPOTrainer = bound(
        policy,
        config,
        [{"prompt_ids": prompt_ids(tokenizer, prompt)} for prompt in prompts],
        None,
        tokenizer,
        reward_model=with_form_penalty(work.reward_model(reward_job(job)), tokenizer, tokens, penalty),
        value_model=work.models.value_model(),
    )
    return trainer


def proximal(
    work: ConstraintsWorkspace,
    job: Job,
    *,
    trainer_type: type[PPOTrainer],
    config_type: type[PPOConfig],
    **options: Any,
) -> TrainedPolicy:
    trainer = ppo_trainer(work, job, trainer_type, config_type, **options)
    with timing((trainer, "policy_mask")) as masking:
        rollouts = observe_rollouts(trainer)
        fit(trainer)
    responses = [
        response
        for rollout in rollouts
        for response in trained_responses(rollout, "policy_mask", verdict_signs(rollout), work.token_credit)
    ]
    return TrainedPolicy(trainer.model.policy, responses, masking.seconds)


def random_ppo(work: ConstraintsWorkspace, job: Job) -> TrainedPolicy:
    """PPO on as many tokens as asr-ppo kept."""
    share = work.finished(job.need("asr-ppo"))["tokens_trained"]
    return proximal(work, job, trainer_type=RandomPPOTrainer, config_type=RandomPPOConfig, share=share)


def entropy_ppo(work: ConstraintsWorkspace, job: Job) -> TrainedPolicy:
    """The tokens trained on are those of all updates; an answer's verdict is that of its rollout."""
    trainer = ppo_trainer(work, job, EntropyPPOTrainer, EntropyPPOConfig)
    with timing((trainer, "trained_tokens")) as selecting:
        rollouts, batches = observe_rollouts(trainer), observe_selection(trainer, "trained_tokens")
        fit(trainer)
    sign_of, responses = signs_by_tokens(rollouts), []
    for batch in batches:
        signs = [sign_of[row] for row in row_tokens(batch)]
        responses += trained_responses(batch, "selected", signs, work.token_credit)
    return TrainedPolicy(trainer.model.policy, responses, selecting.seconds)


OPTIONS = {
    **LEARNING_RATE,
    "kl_coef": 0.05,
    # No bias from a value model that learns from a few hundred answers only.
    "gae_lambda": 1.0,
    "rollout_epochs": 2,
    # Twice the standard deviation of the scores of well-formed answers; a cut-off answer is malformed as well.
    "malformed_penalty": 5.0,
    "advantages": UNCHANGED,
}
PPO = Method(
    "ppo",
    training(partial(proximal, trainer_type=PPOTrainer, config_type=PPOConfig)),
    uses=("rewards",),
    needs=NEEDS,
    options=OPTIONS,
    baseline=START,
)
ASR_PPO = Method(
    "asr-ppo",
    training(partial(proximal, trainer_type=ASRPPOTrainer, config_type=ASRPPOConfig)),
    uses=("rewards",),
    needs=NEEDS,
    options={**OPTIONS, **segment_options(), "sequence_baseline": "mean"},
    baseline=PPO,
)
RANDOM_PPO = Method(
    "random-ppo",
    training(random_ppo),
    uses=("rewards",),
    needs=(Need(ASR_PPO),),
    options=OPTIONS,
    baseline=ASR_PPO,
)
ENTROPY_PPO = Method(
    "entropy-ppo", training(entropy_ppo), uses=("rewards",), needs=NEEDS, options=OPTIONS, baseline=PPO
)

PPO_METHODS = [PPO, ASR_PPO, RANDOM_PPO, ENTROPY_PPO]
