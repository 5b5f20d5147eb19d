"""Methods on preference pairs, each with its baseline, trained by its reference trainer.

The learning rates are each method's best of the question "learning rate" on the tuning seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from benchmarks.experiments.capitals.measures import (
    held_out_accuracy,
    measure_answers,
    measure_policy,
    trained_responses,
)
from benchmarks.experiments.capitals.stages import PAIRS, REWARD
from benchmarks.experiments.capitals.workspace import CapitalsWorkspace
from benchmarks.experiments.framework.experiment import Method
from benchmarks.experiments.framework.jobs import Job, Need
from benchmarks.experiments.policies.timing import timing
from benchmarks.experiments.policies.training import TrainedPolicy, segment_options, train_and_measure
from examples.capitals.training import train_and_save
from segkernel.training import (
    AlignDistilConfig,
    AlignDistilTrainer,
    ASRDPOConfig,
    ASRDPOTrainer,
    DPOConfig,
    DPOTrainer,
)
from segkernel.training.methods import asr_dpo as asr_dpo_module
from segkernel.training.models import load_scoring_model

ASR_OPTIONS = segment_options(baseline="0", delta=0.5)


def training(train: Callable[[CapitalsWorkspace, Job], TrainedPolicy]) -> Callable[[Any, Job], dict[str, Any]]:
    """Function of a step that trains a policy and measures it."""
    return partial(train_and_measure, train=train, measure=measure_policy)


def start(work: CapitalsWorkspace, job: Job) -> dict[str, Any]:
    return measure_answers(work, work.policy())


def dpo(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    pairs = work.policy_pairs(job.sources["pairs"])
    config = DPOConfig(beta=work.settings.task.beta, **work.policy_options(job))
    rows, model = work.rows(pairs), work.policy()
    train_and_save(DPOTrainer(model, config, rows, processing_class=work.tokenizer))
    return TrainedPolicy(model, trained_responses(work.tokenizer, rows, pairs))


def asr_dpo(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    pairs = work.policy_pairs(job.sources["pairs"])
    model = work.policy()
    scorer = load_scoring_model(str(work.job_folder(job.need("reward"))), work.tokenizer)
    with timing((asr_dpo_module, "with_token_rewards"), (asr_dpo_module, "with_masks")) as segmenting:
        trainer = ASRDPOTrainer(
            model,
            ASRDPOConfig(beta=work.settings.task.beta, **work.policy_options(job)),
            work.rows(pairs),
            work.rows(work.measured_pairs()),
            processing_class=work.tokenizer,
            reward_model=scorer,
        )
    train_and_save(trainer)
    return TrainedPolicy(
        model,
        trained_responses(work.tokenizer, trainer.train_dataset, pairs),
        segmenting.seconds,
        masked_accuracy(work, model, trainer),
    )


def masked_accuracy(work: CapitalsWorkspace, model: PreTrainedModel, trainer: DPOTrainer) -> dict[str, float]:
    """Share of held-out pairs ranked right under the masks of the trainer's held-out rows."""
    rows: Any = trainer.eval_dataset
    masks = [(row["chosen_mask"], row["rejected_mask"]) for row in rows]
    return {"masked_preference_accuracy": held_out_accuracy(work, model, masks)}


def aligndistil(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    pairs = work.policy_pairs(job.sources["pairs"])
    rows, model = work.rows(pairs), work.policy()
    trainer = AlignDistilTrainer(
        model,
        AlignDistilConfig(beta=work.settings.task.beta, **work.policy_options(job)),
        rows,
        processing_class=work.tokenizer,
        dpo_model=work.policy(job.need("dpo")),
        reverse_dpo_model=work.policy(job.need("reverse dpo")),
    )
    train_and_save(trainer)
    # The loss reads only the chosen responses, without a mask.
    return TrainedPolicy(model, trained_responses(work.tokenizer, rows, pairs)[::2])


START = Method("no training", start, needs=(Need(PAIRS),), decides=True)
DPO = Method(
    "dpo",
    training(dpo),
    uses=("pairs",),
    needs=(Need(PAIRS),),
    options={"learning_rate": 1e-3},
    baseline=START,
    decides=True,
)
REVERSE_DPO = Method(
    "reverse dpo",
    training(dpo),
    uses=("pairs",),
    needs=(Need(PAIRS),),
    options={"learning_rate": 1e-3, "reverse": True},
    baseline=START,
)
ASR_DPO = Method(
    "asr-dpo",
    training(asr_dpo),
    uses=("pairs", "rewards"),
    needs=(Need(PAIRS), Need(REWARD, {"pairs": "rewards"})),
    options={"learning_rate": 1e-3, "rpo_alpha": 0.0, "rejected_weight": 1.0, **ASR_OPTIONS},
    baseline=DPO,
    decides=True,
)
ALIGNDISTIL = Method(
    "aligndistil",
    training(aligndistil),
    uses=("pairs",),
    needs=(Need(DPO), Need(REVERSE_DPO)),
    options={"learning_rate": 3e-4},
    baseline=DPO,
)

PREFERENCE_METHODS = [START, DPO, ASR_DPO, ALIGNDISTIL]
