"""Training on preference pairs: DPO, ASR-DPO with its random control, and what every method on pairs shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from benchmarks.experiments.framework.jobs import Job
from benchmarks.experiments.policies.credit import TrainedResponse, kept_share, responses_of_pairs, true_segments
from benchmarks.experiments.policies.logprobs import PairMasks, pair_logprobs, preference_accuracy
from benchmarks.experiments.policies.timing import timing
from benchmarks.experiments.policies.training import TrainedPolicy, segment_options
from benchmarks.experiments.pretrained.models import save_trained
from benchmarks.experiments.pretrained.workspace import PretrainedWorkspace
from segkernel.training import (
    ASRDPOConfig,
    ASRDPOTrainer,
    DPOConfig,
    DPOTrainer,
    RandomDPOConfig,
    RandomDPOTrainer,
)
from segkernel.training.data.columns import SIDES
from segkernel.training.methods import asr_dpo as asr_dpo_module
from segkernel.training.trainer.base import SegkernelTrainer
from segkernel.training.trainer.preference import PreferenceTrainer
from segkernel.training.trainer.progress_log import ProgressLog

DPO_OPTIONS = {"learning_rate": 1e-4, "rpo_alpha": 0.0, "rejected_weight": 1.0}
ASR_DPO_OPTIONS = {**DPO_OPTIONS, **segment_options()}


def fit(trainer: SegkernelTrainer) -> None:
    """Train without console output."""
    trainer.remove_callback(ProgressLog)
    trainer.train()


def pair_options(work: PretrainedWorkspace, job: Job) -> dict[str, Any]:
    """Trainer options of the DPO family."""
    return {"beta": work.settings.beta, **work.policy_options(job)}


def pair_rows(work: PretrainedWorkspace, job: Job) -> dict[str, Any]:
    """Arguments of a trainer: rows and tokenizer."""
    return {"train_dataset": work.training_rows(job.sources["pairs"]), "processing_class": work.tokenizer}


def held_out_accuracy(
    work: PretrainedWorkspace, model: PreTrainedModel, masks: Sequence[PairMasks] | None = None
) -> float:
    """Share of held-out pairs ranked right by the policy's implicit reward, of whole answers or under masks."""
    before = work.start_logprobs()
    after = pair_logprobs(model, work.held_out_rows(), batch_size=work.measured_batch)
    return preference_accuracy(before, after, masks)


def fitted(work: PretrainedWorkspace, job: Job, trainer: PreferenceTrainer, segmenting: float = 0.0) -> TrainedPolicy:
    """Train; the policy with its training responses, under the masks of the trainer's rows."""
    fit(trainer)
    rows: Any = trainer.train_dataset
    responses = responses_of_pairs(rows, [{s: work.token_credit(row[f"{s}_ids"]) for s in SIDES} for row in rows])
    model: Any = trainer.model
    measures = kept_by_side(responses)
    if "segments" in rows.column_names:
        tokens = sum(len(row[f"{side}_ids"]) for row in rows for side in SIDES)
        measures["segments"] = 60 * sum(sum(row["segments"]) for row in rows) / tokens
        if (true := true_segments(responses)) is not None:
            measures["true_segments"] = true
    if trainer.eval_dataset is not None:
        held_out: Any = trainer.eval_dataset
        masks = [(row["chosen_mask"], row["rejected_mask"]) for row in held_out]
        measures["masked_preference_accuracy"] = held_out_accuracy(work, model, masks)
    return TrainedPolicy(model, responses, segmenting, measures)


def kept_by_side(responses: Sequence[TrainedResponse]) -> dict[str, float]:
    """Share of tokens trained on by side; the responses are chosen, rejected, chosen, ...

    Example:
        >>> kept_by_side([TrainedResponse([True, False], None, +1), TrainedResponse([True], None, -1)])
        {'chosen_trained': 0.5, 'rejected_trained': 1.0}
    """
    return {f"{side}_trained": kept_share(responses[index::2]) for index, side in enumerate(SIDES)}


def dpo(work: PretrainedWorkspace, job: Job) -> TrainedPolicy:
    """DPO; its policy is saved for the methods that read it."""
    config = DPOConfig(**pair_options(work, job))
    trained = fitted(work, job, DPOTrainer(work.policy(), config, **pair_rows(work, job)))
    save_trained(trained.model, work.job_folder(job))
    return trained


def reverse_dpo(work: PretrainedWorkspace, job: Job) -> dict[str, Any]:
    """Stage: train and save a policy by DPO with its sides exchanged, by the option `reverse`."""
    dpo(work, job)
    return {}


def asr_dpo(work: PretrainedWorkspace, job: Job) -> TrainedPolicy:
    with timing((asr_dpo_module, "with_token_rewards"), (asr_dpo_module, "with_masks")) as segmenting:
        trainer = asr_dpo_trainer(work, job, work.held_out_rows())
    return fitted(work, job, trainer, segmenting.seconds)


def asr_dpo_trainer(work: PretrainedWorkspace, job: Job, held_out: list[dict[str, Any]]) -> ASRDPOTrainer:
    """A trainer that has cut the answers of the training rows and of held-out rows into segments."""
    return ASRDPOTrainer(
        work.policy(),
        ASRDPOConfig(**pair_options(work, job)),
        eval_dataset=held_out,
        reward_model=work.reward_model(job.need("reward")),
        **pair_rows(work, job),
    )


def random_dpo(work: PretrainedWorkspace, job: Job) -> TrainedPolicy:
    """DPO on as many tokens of each side as asr-dpo kept on the same pairs."""
    kept = work.finished(job.need("asr-dpo"))
    shares = {"share": kept["chosen_trained"], "rejected_share": kept["rejected_trained"]}
    config = RandomDPOConfig(**pair_options(work, job), **shares)
    return fitted(work, job, RandomDPOTrainer(work.policy(), config, **pair_rows(work, job)))
