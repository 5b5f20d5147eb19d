"""Training on preference pairs without a reference model: SimPO, and ConfPO and SePO, which select its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from benchmarks.experiments.framework.jobs import Job
from benchmarks.experiments.policies.credit import TrainedResponse
from benchmarks.experiments.policies.rollouts import observe_selection
from benchmarks.experiments.policies.training import TrainedPolicy
from benchmarks.experiments.pretrained.preferences import fit, fitted, kept_by_side, pair_rows
from benchmarks.experiments.pretrained.workspace import PretrainedWorkspace
from segkernel.training import (
    ConfPOConfig,
    ConfPOTrainer,
    SePOConfig,
    SePOTrainer,
    SimPOConfig,
    SimPOTrainer,
)
from segkernel.training.data.columns import SEQUENCE_SIGNS


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
    responses = [response for batch in batches for response in selected_responses(work, batch)]
    model: Any = trainer.model
    return TrainedPolicy(model, responses, measures=kept_by_side(responses))


def selected_responses(work: PretrainedWorkspace, batch: Mapping[str, Tensor]) -> list[TrainedResponse]:
    """Responses of a batch of pairs, under the mask of the tokens that a step selected."""
    responses = []
    rows = zip(batch["input_ids"], batch["response_mask"], batch["selected"], strict=True)
    for index, (ids, response, selected) in enumerate(rows):
        credit = work.token_credit(ids[response].tolist())
        responses.append(TrainedResponse(selected[response].tolist(), credit, SEQUENCE_SIGNS[index % 2]))
    return responses
