"""Methods that select tokens of sampled responses, and random choices of the same share as the controls."""

from __future__ import annotations

from benchmarks.experiments.capitals.grading import graded_samples
from benchmarks.experiments.capitals.pair_selectors import LEAST_SHARE
from benchmarks.experiments.capitals.rollouts import (
    ASR_PPO,
    ASR_RFT,
    FAST,
    PPO,
    RFT,
    SLOW,
    online,
    ppo_options,
    ppo_trainer,
    proximal,
    rejection_trainer,
    trained_on_samples,
)
from benchmarks.experiments.capitals.stages import PREFERRED
from benchmarks.experiments.capitals.workspace import CapitalsWorkspace
from benchmarks.experiments.framework.jobs import Job, Need
from benchmarks.experiments.policies.rollouts import (
    observe_rollouts,
    observe_selection,
    row_tokens,
    signs_by_tokens,
)
from benchmarks.experiments.policies.timing import timing
from benchmarks.experiments.policies.training import TrainedPolicy
from examples.capitals.training import train_and_save
from segkernel.training import (
    EntropyPPOConfig,
    EntropyPPOTrainer,
    RandomPPOConfig,
    RandomPPOTrainer,
    RandomRFTConfig,
    RandomRFTTrainer,
    SLMRFTConfig,
    SLMRFTTrainer,
)


def kept_by(work: CapitalsWorkspace, job: Job, name: str) -> dict[str, float]:
    """Option of a random choice: the share of tokens that a method kept, with the same seed and sources."""
    return {"share": max(work.finished(job.need(name))["tokens_trained"], LEAST_SHARE)}


def random_rft(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    options = kept_by(work, job, "asr-rft")
    return trained_on_samples(work, rejection_trainer(work, job, RandomRFTTrainer, RandomRFTConfig, options=options))


def random_ppo(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    return proximal(
        work, job, trainer_type=RandomPPOTrainer, config_type=RandomPPOConfig, **kept_by(work, job, "asr-ppo")
    )


def slm_rft(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    """The tokens trained on are those of all steps, since every step selects anew."""
    clean = work.policy(job.need("preferred answers"))
    trainer = rejection_trainer(work, job, SLMRFTTrainer, SLMRFTConfig, ref_model=clean)
    batches = observe_selection(trainer, "trained_tokens")
    train_and_save(trainer)
    found = [one for batch in batches for one in graded_samples(work.tokenizer, batch, "selected", lambda row: 1)]
    return TrainedPolicy(trainer.model, found)


def entropy_ppo(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    """The tokens trained on are those of all updates; a response's verdict is that of its rollout."""
    trainer, model = ppo_trainer(work, job, EntropyPPOTrainer, EntropyPPOConfig(**ppo_options(work, job)))
    with timing((trainer, "trained_tokens")) as selecting:
        rollouts, batches = observe_rollouts(trainer), observe_selection(trainer, "trained_tokens")
        train_and_save(trainer)
    sign_of, found = signs_by_tokens(rollouts), []
    for batch in batches:
        rows = row_tokens(batch)
        found += graded_samples(work.tokenizer, batch, "selected", lambda row, rows=rows: sign_of[rows[row]])
    return TrainedPolicy(model, found, selecting.seconds)


RANDOM_RFT = online("random-rft", random_rft, ASR_RFT, FAST, needs=(Need(ASR_RFT),), decides=True)
SLM_RFT = online("slm-rft", slm_rft, RFT, {"learning_rate": 3e-3}, needs=(Need(PREFERRED, {"pairs": "rewards"}),))
RANDOM_PPO = online("random-ppo", random_ppo, ASR_PPO, SLOW, needs=(Need(ASR_PPO),))
ENTROPY_PPO = online("entropy-ppo", entropy_ppo, PPO, SLOW)

RFT_SELECTORS = [RANDOM_RFT, SLM_RFT]
PPO_SELECTORS = [RANDOM_PPO, ENTROPY_PPO]
