"""Selection of tokens in preference pairs: TIS-DPO, which weighs those of DPO, and SimPO with ConfPO and SePO."""

from __future__ import annotations

from typing import Any

from benchmarks.experiments.framework.jobs import Job
from benchmarks.experiments.policies.rollouts import Batch, observe_selection, trained_responses
from benchmarks.experiments.policies.training import TrainedPolicy
from benchmarks.experiments.pretrained.preferences import fit, fitted, kept_by_side, pair_options, pair_rows
from benchmarks.experiments.pretrained.workspace import PretrainedWorkspace
from segkernel.training import (
    ConfPOConfig,
    ConfPOTrainer,
    SePOConfig,
    SePOTrainer,
    SimPOConfig,
    SimPOTrainer,
    TISDPOConfig,
    TISDPOTrainer,
)
from segkernel.training.data.columns import SEQUENCE_SIGNS


def tis_dpo(work: PretrainedWorkspace, job: Job, *, dpo_model: str, reverse_dpo_model: str) -> TrainedPolicy:
    """TIS-DPO, with the policies of two needed steps: by DPO on the same pairs, and with their sides exchanged."""
    trainer = TISDPOTrainer(
        work.policy(),
        TISDPOConfig(**pair_options(work, job)),
        dpo_model=work.policy(job.need(dpo_model)),
        reverse_dpo_model=work.policy(job.need(reverse_dpo_model)),
        **pair_rows(work, job),
    )
    return fitted(work, job, trainer)


def simpo(work: PretrainedWorkspace, job: Job) -> TrainedPolicy:
    config = SimPOConfig(**work.policy_options(job))
    return fitted(work, job, SimPOTrainer(work.policy(), config, **pair_rows(work, job)))


def sepo(work: PretrainedWorkspace, job: Job, *, dpo_model: str) -> TrainedPolicy:
    """SePO, with the policy that the needed step named `dpo_model` trained on the same pairs."""
    config, scored_by = SePOConfig(**work.policy_options(job)), work.policy(job.need(dpo_model))
    return fitted(work, job, SePOTrainer(work.policy(), config, **pair_rows(work, job), dpo_model=scored_by))


def confpo(work: PretrainedWorkspace, job: Job) -> TrainedPolicy:
    """ConfPO; the tokens trained on are those of all steps, since every step selects anew."""
    trainer = ConfPOTrainer(work.policy(), ConfPOConfig(**work.policy_options(job)), **pair_rows(work, job))
    batches = observe_selection(trainer, "selected")
    fit(trainer)
    responses = [
        response
        for batch in batches
        for response in trained_responses(batch, "selected", pair_signs(batch), work.token_credit)
    ]
    model: Any = trainer.model
    return TrainedPolicy(model, responses, measures=kept_by_side(responses))


def pair_signs(batch: Batch) -> tuple[int, ...]:
    """Signs of the verdicts of a batch's rows, which are chosen, rejected, chosen, ..."""
    return SEQUENCE_SIGNS * (len(batch["input_ids"]) // 2)
