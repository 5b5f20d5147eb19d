"""Methods that select tokens of preference pairs, and random choices of the same share as the control of asr-dpo."""

from __future__ import annotations

from functools import partial

from benchmarks.experiments.capitals.grading import graded_pairs
from benchmarks.experiments.capitals.preferences import (
    ASR_DPO,
    DPO,
    REVERSE_DPO,
    START,
    pair_trainer,
    trained_on_rows,
    training,
)
from benchmarks.experiments.capitals.stages import PAIRS
from benchmarks.experiments.capitals.workspace import CapitalsWorkspace
from benchmarks.experiments.framework.experiment import Method
from benchmarks.experiments.framework.jobs import Job, Need
from benchmarks.experiments.policies.rollouts import observe_selection
from benchmarks.experiments.policies.training import TrainedPolicy
from examples.capitals.training import train_and_save
from segkernel.training import (
    ConfPOConfig,
    ConfPOTrainer,
    RandomDPOConfig,
    RandomDPOTrainer,
    SePOConfig,
    SePOTrainer,
    SimPOConfig,
    SimPOTrainer,
    TISDPOConfig,
    TISDPOTrainer,
)

LEAST_SHARE = 0.001  # a random choice of no token at all is not defined


def random_dpo(work: CapitalsWorkspace, job: Job, *, pieces: bool) -> TrainedPolicy:
    """Random tokens, or pieces of the mean length of a segment, of the shares that asr-dpo kept of each side."""
    kept = work.finished(job.need("asr-dpo"))
    options = {
        "beta": work.settings.task.beta,
        "share": max(kept["kept_chosen"], LEAST_SHARE),
        "rejected_share": max(kept["kept_rejected"], LEAST_SHARE),
        "piece_length": kept["segment_length"] if pieces else 1.0,
    }
    return trained_on_rows(work, job, pair_trainer(work, job, RandomDPOTrainer, RandomDPOConfig, options=options))


def tis_dpo(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    trainer = pair_trainer(
        work,
        job,
        TISDPOTrainer,
        TISDPOConfig,
        options={"beta": work.settings.task.beta},
        dpo_model=work.policy(job.need("dpo")),
        reverse_dpo_model=work.policy(job.need("reverse dpo")),
    )
    return trained_on_rows(work, job, trainer)


def sepo(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    trainer = pair_trainer(work, job, SePOTrainer, SePOConfig, dpo_model=work.policy(job.need("dpo")))
    return trained_on_rows(work, job, trainer)


def simpo(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    return trained_on_rows(work, job, pair_trainer(work, job, SimPOTrainer, SimPOConfig))


def confpo(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    """The tokens trained on are those of all steps, since every step selects anew."""
    trainer = pair_trainer(work, job, ConfPOTrainer, ConfPOConfig)
    batches = observe_selection(trainer, "selected")
    train_and_save(trainer)
    return TrainedPolicy(trainer.model, [found for batch in batches for found in graded_pairs(work.tokenizer, batch)])


SAME_SHARE, SAME_PIECES = (
    Method(
        name,
        training(partial(random_dpo, pieces=pieces)),
        uses=("pairs", "rewards"),
        needs=(Need(PAIRS), Need(ASR_DPO)),
        options=DPO.options,
        baseline=ASR_DPO,
        decides=not pieces,
    )
    for name, pieces in (("random-dpo", False), ("random-dpo in pieces", True))
)
TIS_DPO = Method(
    "tis-dpo",
    training(tis_dpo),
    uses=("pairs",),
    needs=(Need(DPO), Need(REVERSE_DPO)),
    options={**DPO.options, "learning_rate": 1e-3},
    baseline=DPO,
)
SIMPO = Method("simpo", training(simpo), ("pairs",), (Need(PAIRS),), {"learning_rate": 3e-4}, baseline=START)
CONFPO = Method("confpo", training(confpo), ("pairs",), (Need(PAIRS),), {"learning_rate": 1e-3}, baseline=SIMPO)
SEPO = Method("sepo", training(sepo), ("pairs",), (Need(DPO),), {"learning_rate": 3e-4}, baseline=SIMPO)

PAIR_SELECTORS = [SAME_SHARE, SAME_PIECES, TIS_DPO, SIMPO, CONFPO, SEPO]
