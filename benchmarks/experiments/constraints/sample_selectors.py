"""Selection of tokens of the accepted answers: SLM-RFT, and its reference model."""

from __future__ import annotations

from typing import Any

from benchmarks.experiments.constraints.answers import prompt_ids
from benchmarks.experiments.constraints.preferences import LEARNING_RATE, PAIR_NEEDS, training
from benchmarks.experiments.constraints.rejection import (
    NEEDS,
    OPTIONS,
    RFT,
    Answered,
    rejection_trainer,
    with_answers,
)
from benchmarks.experiments.constraints.workspace import ConstraintsWorkspace
from benchmarks.experiments.framework.experiment import Method
from benchmarks.experiments.framework.jobs import Job, Need, Step
from benchmarks.experiments.policies.rollouts import observe_selection, trained_responses
from benchmarks.experiments.policies.training import TrainedPolicy
from benchmarks.experiments.pretrained.models import save_trained
from benchmarks.experiments.pretrained.preferences import fit
from segkernel.training import RFTConfig, RFTTrainer, SLMRFTConfig, SLMRFTTrainer


def preferred_answers(work: ConstraintsWorkspace, job: Job) -> dict[str, Any]:
    """Train the start model on the chosen answers of pairs, each once, and save it."""
    answered: Answered = [
        (list(prompt), [list(answer)])
        for prompt, answer in dict.fromkeys(
            (tuple(prompt_ids(work.tokenizer, pair.prompt)), pair.chosen.ids)
            for pair in work.policy_pairs(job.sources["pairs"])
        )
    ]
    config = RFTConfig(samples=1, **work.policy_options(job))
    prompts = [{"prompt_ids": prompt} for prompt, _ in answered]
    bound = with_answers(RFTTrainer, answered)
    trainer = bound(work.policy(), config, prompts, None, work.tokenizer, reward_model=equal_rewards)
    fit(trainer)
    save_trained(trainer.model, work.job_folder(job))
    return {"answers": len(trainer.train_dataset)}


def equal_rewards(prompts: list[str], responses: list[str]) -> list[float]:
    """Reward function that accepts every answer."""
    return [0.0] * len(responses)


def slm_rft(work: ConstraintsWorkspace, job: Job) -> TrainedPolicy:
    """SLM-RFT; the tokens trained on are those of all steps, since every step selects anew."""
    clean = work.policy(job.need("preferred answers"))
    trainer = rejection_trainer(work, job, SLMRFTTrainer, SLMRFTConfig, ref_model=clean)
    batches = observe_selection(trainer, "trained_tokens")
    fit(trainer)
    responses = [
        response
        for batch in batches
        for response in trained_responses(batch, "selected", [1] * len(batch["input_ids"]), work.token_credit)
    ]
    return TrainedPolicy(trainer.model, responses)


PREFERRED = Step("preferred answers", preferred_answers, ("pairs",), PAIR_NEEDS, options=LEARNING_RATE)
SLM_RFT = Method(
    "slm-rft",
    training(slm_rft),
    uses=("rewards",),
    needs=(*NEEDS, Need(PREFERRED, {"pairs": "rewards"})),
    options=OPTIONS,
    baseline=RFT,
)

SAMPLE_SELECTORS = [SLM_RFT]
