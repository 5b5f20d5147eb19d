"""Rejection sampling and its variants, on the answers that the start model gave to the training prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from benchmarks.experiments.constraints.answers import MAX_TOKENS, Answer, answer_credit, prompt_ids
from benchmarks.experiments.constraints.preferences import LEARNING_RATE, START, training
from benchmarks.experiments.constraints.stages import REWARD
from benchmarks.experiments.constraints.workspace import ConstraintsWorkspace
from benchmarks.experiments.framework.experiment import Method
from benchmarks.experiments.framework.jobs import Job, Need
from benchmarks.experiments.policies.credit import TrainedResponse
from benchmarks.experiments.policies.timing import timing
from benchmarks.experiments.policies.training import TrainedPolicy, segment_options
from benchmarks.experiments.pretrained.preferences import fit
from segkernel.training import (
    ASRRFTConfig,
    ASRRFTTrainer,
    RandomRFTConfig,
    RandomRFTTrainer,
    RFTConfig,
    RFTTrainer,
)
from segkernel.training.data.columns import RESPONSES
from segkernel.training.data.tables import to_dataset, with_columns

NO_OPTIONS: Mapping[str, Any] = {}
# Answers that may be accepted. Among all answers, a fragment that violates nothing is often the best one.
WELL_FORMED = "well-formed answers"
ACCEPTABLE: Mapping[str, Callable[[Answer], bool]] = {
    "every answer": lambda answer: True,
    WELL_FORMED: lambda answer: answer.is_well_formed,
}
OPTIONS = {**LEARNING_RATE, "acceptable": WELL_FORMED}
Answered = list[tuple[list[int], list[list[int]]]]  # token ids of prompts, each with those of its answers


class WithAnswers:
    """Mixin of rejection-sampling trainers: samples are answers that exist already, the same for every method."""

    answered: Answered

    def sample_prompts(self, prompts: Dataset) -> Dataset:
        rows = [
            {"prompt_index": index, "prompt_ids": prompt, "response_ids": answer}
            for index, (prompt, answers) in enumerate(self.answered)
            for answer in answers
        ]
        return to_dataset(rows, RESPONSES, "samples")


def with_answers(trainer_type: type[RFTTrainer], answered: Answered) -> Any:
    """The trainer class bound to answers."""
    return type(trainer_type.__name__, (WithAnswers, trainer_type), {"answered": answered})


def rejection_trainer(
    work: ConstraintsWorkspace,
    job: Job,
    trainer_type: type[RFTTrainer],
    config_type: type[RFTConfig],
    *,
    options: Mapping[str, Any] = NO_OPTIONS,
    **models: Any,
) -> Any:
    """A trainer that has scored the start model's answers; `options` come on top of the job's."""
    given = work.policy_options(job)
    may_accept = ACCEPTABLE[given.pop("acceptable")]
    found = [
        (prompt_ids(work.tokenizer, prompt), [list(one.ids) for one in answers if may_accept(one)])
        for prompt, answers in work.answers("training")
    ]
    answered = [(prompt, answers) for prompt, answers in found if answers]
    config = config_type(samples=work.settings.samples, max_new_tokens=MAX_TOKENS, **given, **options)
    prompts = [{"prompt_ids": prompt} for prompt, _ in answered]
    models = {"reward_model": work.reward_model(reward_job(job)), **models}
    return with_answers(trainer_type, answered)(work.policy(), config, prompts, None, work.tokenizer, **models)


def rejection_sampling(
    work: ConstraintsWorkspace,
    job: Job,
    *,
    trainer_type: type[RFTTrainer],
    config_type: type[RFTConfig],
    **options: Any,
) -> TrainedPolicy:
    with timing((trainer_type, "accept")) as accepting:
        trainer = rejection_trainer(work, job, trainer_type, config_type, options=options)
    fit(trainer)
    responses = []
    for row in trainer.train_dataset:
        credit = answer_credit(work.tokenizer, row["response_ids"])
        responses.append(TrainedResponse(row.get("mask") or [True] * len(credit), credit, 1))
    return TrainedPolicy(trainer.model, responses, accepting.seconds)


def reward_job(job: Job) -> Job:
    """Job of the reward model that a method needs, itself or through the method that it is a control of."""
    return next(one if one.step.name == REWARD.name else reward_job(one) for one in job.needs)


def random_rft(work: ConstraintsWorkspace, job: Job) -> TrainedPolicy:
    """Rejection sampling on as many tokens as asr-rft kept."""
    share = work.finished(job.need("asr-rft"))["tokens_trained"]
    return rejection_sampling(work, job, trainer_type=RandomRFTTrainer, config_type=RandomRFTConfig, share=share)


class TrueCreditRFTTrainer(RFTTrainer):
    """Rejection sampling under the masks of a perfect reward model: the accepted answers without their violations."""

    def accept(self, samples: Dataset) -> Dataset:
        accepted = super().accept(samples)
        assert isinstance(self.processing_class, PreTrainedTokenizerBase)
        masks = [
            [credit == 1 for credit in answer_credit(self.processing_class, ids)] for ids in accepted["response_ids"]
        ]
        return with_columns(accepted, {"mask": masks}, RESPONSES)


NEEDS = (Need(REWARD, {"pairs": "rewards"}),)
RFT = Method(
    "rft",
    training(partial(rejection_sampling, trainer_type=RFTTrainer, config_type=RFTConfig)),
    uses=("rewards",),
    needs=NEEDS,
    options=OPTIONS,
    baseline=START,
    decides=True,
)
ASR_RFT = Method(
    "asr-rft",
    training(partial(rejection_sampling, trainer_type=ASRRFTTrainer, config_type=ASRRFTConfig)),
    uses=("rewards",),
    needs=NEEDS,
    options={**OPTIONS, **segment_options()},
    baseline=RFT,
    decides=True,
)
RANDOM_RFT = Method(
    "random-rft",
    training(random_rft),
    uses=("rewards",),
    needs=(Need(ASR_RFT),),
    options=OPTIONS,
    baseline=ASR_RFT,
)
TRUE_CREDIT_RFT = Method(
    "true-credit-rft",
    training(partial(rejection_sampling, trainer_type=TrueCreditRFTTrainer, config_type=RFTConfig)),
    uses=("rewards",),
    needs=NEEDS,
    options=OPTIONS,
    baseline=RFT,
)

REJECTION_METHODS = [RFT, ASR_RFT, RANDOM_RFT, TRUE_CREDIT_RFT]
