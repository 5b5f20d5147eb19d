"""Methods on preference pairs, each with its baseline, trained by its reference trainer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.experiments.constraints.measures import (
    answer_credit,
    held_out_accuracy,
    measure_policy,
    trained_pairs,
)
from benchmarks.experiments.constraints.pairs import Pair
from benchmarks.experiments.constraints.stages import ANSWERS, REWARD
from benchmarks.experiments.constraints.workspace import ConstraintsWorkspace
from benchmarks.experiments.framework.experiment import Method
from benchmarks.experiments.framework.jobs import Job, Need
from benchmarks.experiments.policies.credit import credit_measures
from benchmarks.experiments.policies.timing import timing
from benchmarks.experiments.policies.training import TrainedPolicy, segment_options, train_and_measure
from segkernel.training import (
    ASRDPOConfig,
    ASRDPOTrainer,
    DPOConfig,
    DPOTrainer,
    RandomDPOConfig,
    RandomDPOTrainer,
)
from segkernel.training.data.columns import SEQUENCE_SIGNS, SIDES
from segkernel.training.methods import asr_dpo as asr_dpo_module
from segkernel.training.trainer.base import SegkernelTrainer
from segkernel.training.trainer.progress_log import ProgressLog


def training(train: Callable[[ConstraintsWorkspace, Job], TrainedPolicy]) -> Callable[[Any, Job], dict[str, Any]]:
    """Function of a step that trains a policy and measures it."""
    return partial(trained_and_measured, train=train)


def trained_and_measured(
    work: ConstraintsWorkspace, job: Job, *, train: Callable[[ConstraintsWorkspace, Job], TrainedPolicy]
) -> dict[str, Any]:
    return train_and_measure(work, job, train=train, measure=partial(measure_policy, job=job))


def fit(trainer: SegkernelTrainer) -> None:
    """Train without console output."""
    trainer.remove_callback(ProgressLog)
    trainer.train()


def start(work: ConstraintsWorkspace, job: Job) -> dict[str, Any]:
    return measure_policy(work, work.policy(), job=job)


def preference(
    work: ConstraintsWorkspace, job: Job, *, trainer_type: type[DPOTrainer], config_type: type[DPOConfig]
) -> TrainedPolicy:
    """Train on pairs by a method that needs nothing else."""
    return fitted(
        work, job, trainer_type(work.policy(), config_type(**pair_options(work, job)), **pair_rows(work, job))
    )


def pair_options(work: ConstraintsWorkspace, job: Job) -> dict[str, Any]:
    return {"beta": work.settings.beta, **work.policy_options(job)}


def pair_rows(work: ConstraintsWorkspace, job: Job) -> dict[str, Any]:
    """Arguments of a trainer: rows and tokenizer."""
    return {
        "train_dataset": work.rows(work.policy_pairs(job.sources["pairs"])),
        "processing_class": work.tokenizer,
    }


def fitted(work: ConstraintsWorkspace, job: Job, trainer: DPOTrainer, segmenting: float = 0.0) -> TrainedPolicy:
    """Train; the policy with its training responses, under the masks of the trainer's rows."""
    fit(trainer)
    rows: Any = trainer.train_dataset
    responses = trained_pairs(work.tokenizer, rows, work.policy_pairs(job.sources["pairs"]))
    chosen, rejected = (credit_measures(responses[side::2])["tokens_trained"] for side in range(len(SIDES)))
    model: Any = trainer.model
    measures = {"chosen_trained": chosen, "rejected_trained": rejected}
    if "segments" in rows.column_names:
        tokens = sum(len(row[f"{side}_ids"]) for row in rows for side in SIDES)
        measures["segments"] = 60 * sum(sum(row["segments"]) for row in rows) / tokens
    if trainer.eval_dataset is not None:
        held_out: Any = trainer.eval_dataset
        masks = [(row["chosen_mask"], row["rejected_mask"]) for row in held_out]
        measures["masked_preference_accuracy"] = held_out_accuracy(work, model, masks)
    return TrainedPolicy(model, responses, segmenting, measures)


def asr_dpo(work: ConstraintsWorkspace, job: Job) -> TrainedPolicy:
    with timing((asr_dpo_module, "with_token_rewards"), (asr_dpo_module, "with_masks")) as segmenting:
        trainer = asr_dpo_trainer(work, job, work.measured_pairs())
    return fitted(work, job, trainer, segmenting.seconds)


def asr_dpo_trainer(work: ConstraintsWorkspace, job: Job, held_out: list[Pair]) -> ASRDPOTrainer:
    """A trainer that has cut the training pairs and held-out pairs into segments."""
    return ASRDPOTrainer(
        work.policy(),
        ASRDPOConfig(**pair_options(work, job)),
        eval_dataset=work.rows(held_out),
        reward_model=work.reward_model(job.need("reward")),
        **pair_rows(work, job),
    )


def random_dpo(work: ConstraintsWorkspace, job: Job) -> TrainedPolicy:
    """DPO on as many tokens of each side as asr-dpo kept on the same pairs."""
    kept = work.finished(job.need("asr-dpo"))
    shares = {"share": kept["chosen_trained"], "rejected_share": kept["rejected_trained"]}
    config = RandomDPOConfig(**pair_options(work, job), **shares)
    return fitted(work, job, RandomDPOTrainer(work.policy(), config, **pair_rows(work, job)))


def true_credit(work: ConstraintsWorkspace, job: Job) -> TrainedPolicy:
    """DPO under the masks of a perfect reward model: right tokens of the chosen, violations of the rejected answer."""
    inputs = pair_rows(work, job)
    for row in inputs["train_dataset"]:
        for side, sign in zip(SIDES, SEQUENCE_SIGNS, strict=True):
            row[f"{side}_mask"] = [credit == sign for credit in answer_credit(work.tokenizer, row[f"{side}_ids"])]
    return fitted(work, job, DPOTrainer(work.policy(), DPOConfig(**pair_options(work, job)), **inputs))


LEARNING_RATE = {"learning_rate": 1e-4}
PAIR_NEEDS = (Need(ANSWERS),)
START = Method("no training", start, needs=PAIR_NEEDS, decides=True)
DPO = Method(
    "dpo",
    training(partial(preference, trainer_type=DPOTrainer, config_type=DPOConfig)),
    uses=("pairs",),
    needs=PAIR_NEEDS,
    options={**LEARNING_RATE, "rpo_alpha": 0.0, "rejected_weight": 1.0},
    baseline=START,
    decides=True,
)
ASR_DPO = Method(
    "asr-dpo",
    training(asr_dpo),
    uses=("pairs", "rewards"),
    needs=(Need(REWARD, {"pairs": "rewards"}),),
    options={**DPO.options, **segment_options(baseline_shift=-1.0, delta=0.5)},
    baseline=DPO,
    decides=True,
)
RANDOM_DPO = Method(
    "random-dpo",
    training(random_dpo),
    uses=("pairs", "rewards"),
    needs=(Need(ASR_DPO),),
    options=DPO.options,
    baseline=ASR_DPO,
    decides=True,
)
TRUE_CREDIT = Method(
    "true credit",
    training(true_credit),
    uses=("pairs",),
    needs=PAIR_NEEDS,
    options=DPO.options,
    baseline=DPO,
)

PREFERENCE_METHODS = [START, DPO, ASR_DPO, RANDOM_DPO, TRUE_CREDIT]
