"""Methods on preference pairs, each with its baseline, trained by its reference trainer.

The learning rates are each method's best of the question "learning rate" on the tuning seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

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
from benchmarks.experiments.policies.credit import kept_share
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

NO_OPTIONS: Mapping[str, Any] = {}
ASR_OPTIONS = segment_options()
# The separators of rejected answers are as good as those of chosen ones.
DPO_OPTIONS = {"learning_rate": 3e-3, "rejected_weight": 0.5}


def training(train: Callable[[CapitalsWorkspace, Job], TrainedPolicy]) -> Callable[[Any, Job], dict[str, Any]]:
    """Function of a step that trains a policy and measures it."""
    return partial(train_and_measure, train=train, measure=measure_policy)


def start(work: CapitalsWorkspace, job: Job) -> dict[str, Any]:
    return measure_answers(work, work.policy())


def pair_trainer(
    work: CapitalsWorkspace,
    job: Job,
    trainer_type: Callable[..., Any],
    config_type: Callable[..., Any],
    *,
    options: Mapping[str, Any] = NO_OPTIONS,
    **inputs: Any,
) -> Any:
    """A trainer on the job's pairs, with held-out pairs. `options` come on top of the job's."""
    config = config_type(**{**work.policy_options(job), **options})
    rows, held_out = work.rows(work.policy_pairs(job.sources["pairs"])), work.rows(work.measured_pairs())
    return trainer_type(work.policy(), config, rows, held_out, processing_class=work.tokenizer, **inputs)


def trained_on_rows(work: CapitalsWorkspace, job: Job, trainer: Any, segmenting: float = 0.0) -> TrainedPolicy:
    """Train; the masks of the trainer's rows are the tokens trained on."""
    train_and_save(trainer)
    rows, pairs = trainer.train_dataset, work.policy_pairs(job.sources["pairs"])
    responses = trained_responses(work.tokenizer, rows, pairs)
    measures = {"kept_chosen": kept_share(responses[::2]), "kept_rejected": kept_share(responses[1::2])}
    if "segments" in rows.column_names:
        segments = sum(map(sum, rows["segments"]))
        tokens = sum(len(response.mask) for response in responses)
        measures |= {"segments": segments / len(responses), "segment_length": tokens / segments}
    if "chosen_mask" in rows.column_names:
        masks = [(row["chosen_mask"], row["rejected_mask"]) for row in trainer.eval_dataset]
        measures["masked_preference_accuracy"] = held_out_accuracy(work, trainer.model, masks)
    return TrainedPolicy(trainer.model, responses, segmenting, measures)


def dpo(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    trainer = pair_trainer(work, job, DPOTrainer, DPOConfig, options={"beta": work.settings.task.beta})
    return trained_on_rows(work, job, trainer)


def asr_dpo(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    scorer = load_scoring_model(str(work.job_folder(job.need("reward"))), work.tokenizer)
    beta = {"beta": work.settings.task.beta}
    with timing((asr_dpo_module, "with_token_rewards"), (asr_dpo_module, "with_masks")) as segmenting:
        trainer = pair_trainer(work, job, ASRDPOTrainer, ASRDPOConfig, options=beta, reward_model=scorer)
    return trained_on_rows(work, job, trainer, segmenting.seconds)


def aligndistil(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    trainer = pair_trainer(
        work,
        job,
        AlignDistilTrainer,
        AlignDistilConfig,
        options={"beta": work.settings.task.beta},
        dpo_model=work.policy(job.need("dpo")),
        reverse_dpo_model=work.policy(job.need("reverse dpo")),
    )
    train_and_save(trainer)
    # The loss reads only the chosen responses, without a mask.
    pairs = work.policy_pairs(job.sources["pairs"])
    return TrainedPolicy(trainer.model, trained_responses(work.tokenizer, work.rows(pairs), pairs)[::2])


START = Method("no training", start, needs=(Need(PAIRS),), decides=True)
DPO = Method(
    "dpo",
    training(dpo),
    uses=("pairs",),
    needs=(Need(PAIRS),),
    options=DPO_OPTIONS,
    baseline=START,
    decides=True,
)
REVERSE_DPO = Method(
    "reverse dpo",
    training(dpo),
    uses=("pairs",),
    needs=(Need(PAIRS),),
    options={**DPO_OPTIONS, "reverse": True},
    baseline=START,
)
ASR_DPO = Method(
    "asr-dpo",
    training(asr_dpo),
    uses=("pairs", "rewards"),
    needs=(Need(PAIRS), Need(REWARD, {"pairs": "rewards"})),
    options={**DPO_OPTIONS, "rpo_alpha": 0.0, **ASR_OPTIONS},
    baseline=DPO,
    decides=True,
)
ALIGNDISTIL = Method(
    "aligndistil",
    training(aligndistil),
    uses=("pairs",),
    needs=(Need(DPO), Need(REVERSE_DPO)),
    options={"learning_rate": 1e-4},
    baseline=DPO,
)

PREFERENCE_METHODS = [START, DPO, ASR_DPO, ALIGNDISTIL]
