"""ASR-DPO on token rewards or segments of other origin than the reward model and the trigger."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import segkernel
from benchmarks.experiments.capitals.measures import trained_responses
from benchmarks.experiments.capitals.preferences import ASR_DPO, DPO, training
from benchmarks.experiments.capitals.stages import PAIRS, REWARD
from benchmarks.experiments.capitals.workspace import CapitalsWorkspace
from benchmarks.experiments.framework.experiment import Method
from benchmarks.experiments.framework.jobs import Job, Need, Step
from benchmarks.experiments.framework.workspace import write_atomically
from benchmarks.experiments.policies.logprobs import pair_logprobs
from benchmarks.experiments.policies.training import TrainedPolicy
from examples.capitals.task import END, token_credit
from examples.capitals.training import train_and_save
from segkernel.training import ASRDPOConfig, ASRDPOTrainer, DPOConfig, DPOTrainer
from segkernel.training.data.collators import PreferenceCollator
from segkernel.training.data.columns import PAIRS as PAIR_COLUMNS
from segkernel.training.data.columns import SEQUENCE_SIGNS, SIDES
from segkernel.training.data.tables import to_dataset
from segkernel.training.models import load_scoring_model
from segkernel.training.segmentation.options import SegmentOptions
from segkernel.training.segmentation.pairs import fit_to_pairs, with_token_rewards

Rows = list[dict[str, Any]]


def token_rewards(work: CapitalsWorkspace, job: Job) -> dict[str, Any]:
    """Compute the token rewards of the policies' pairs and store them as rows for the trainers."""
    rows = to_dataset(work.rows(work.policy_pairs(job.sources["pairs"])), PAIR_COLUMNS)
    folder = work.job_folder(job)
    scorer = load_scoring_model(str(work.job_folder(job.need("reward"))), work.tokenizer)
    config = DPOConfig(output_dir=str(folder), per_device_eval_batch_size=512, use_cpu=True)
    rewarded = with_token_rewards(rows, scorer, "difference", PreferenceCollator.of(work.tokenizer), config).to_list()
    # As in asr-dpo, the EOS is positive: the reward model leaves its reward undetermined.
    largest = max(reward for row in rewarded for side in SIDES for reward in row[f"{side}_token_rewards"])
    for row in rewarded:
        for side in SIDES:
            row[f"{side}_token_rewards"][-1] = largest
    write_atomically(folder / "rows.json", json.dumps(rewarded))
    return {}


def rewarded_rows(work: CapitalsWorkspace, job: Job) -> Rows:
    return json.loads((work.job_folder(job.need("token rewards")) / "rows.json").read_text())


def train_on(work: CapitalsWorkspace, job: Job, rows: Rows) -> TrainedPolicy:
    """Train asr-dpo on rows with token rewards."""
    config = ASRDPOConfig(beta=work.settings.task.beta, **work.policy_options(job))
    model = work.policy()
    trainer = ASRDPOTrainer(model, config, rows, processing_class=work.tokenizer)
    train_and_save(trainer)
    pairs = work.policy_pairs(job.sources["pairs"])
    return TrainedPolicy(model, trained_responses(work.tokenizer, trainer.train_dataset, pairs))


def add_noise(work: CapitalsWorkspace, job: Job, *, noise: float) -> TrainedPolicy:
    """Add Gaussian noise to every token reward, in units of their standard deviation: a worse reward model."""
    rows, rng = rewarded_rows(work, job), random.Random(work.seed)
    scale = noise * float(
        torch.tensor([reward for row in rows for side in SIDES for reward in row[f"{side}_token_rewards"]]).std()
    )
    for row in rows:
        for side in SIDES:
            row[f"{side}_token_rewards"] = [reward + rng.gauss(0, scale) for reward in row[f"{side}_token_rewards"]]
    return train_on(work, job, rows)


def true_rewards(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    """Use the true credit as token rewards: a perfect reward model."""
    rows = rewarded_rows(work, job)
    for row, pair in zip(rows, work.policy_pairs(job.sources["pairs"]), strict=True):
        for side in SIDES:
            tokens = work.tokenizer.convert_ids_to_tokens(row[f"{side}_ids"])
            row[f"{side}_token_rewards"] = token_credit(tokens, pair.right(side))
    return train_on(work, job, rows)


def implicit_rewards(work: CapitalsWorkspace, job: Job) -> TrainedPolicy:
    """Use the implicit rewards of a DPO policy: its log-ratio to the start model, without the factor beta."""
    rows = rewarded_rows(work, job)
    trained, start = (pair_logprobs(model, rows) for model in (work.policy(job.need("dpo")), work.policy()))
    for row, new, old in zip(rows, trained, start, strict=True):
        for index, side in enumerate(SIDES):
            row[f"{side}_token_rewards"] = [a - b for a, b in zip(new[index], old[index], strict=True)]
    return train_on(work, job, rows)


def fixed_segments(
    work: CapitalsWorkspace, job: Job, *, segments: Callable[[Sequence[str]], list[int]]
) -> TrainedPolicy:
    """Segment independently of the rewards; a segment's sign is that of its mean reward minus the baseline."""
    rows, pairs = rewarded_rows(work, job), work.policy_pairs(job.sources["pairs"])
    options = work.policy_options(job)
    baseline = fit_to_pairs(to_dataset(rows, PAIR_COLUMNS), SegmentOptions()).baseline
    assert not isinstance(baseline, str)
    for row in rows:
        for side, sign in zip(SIDES, SEQUENCE_SIGNS, strict=True):
            ids = segments(work.tokenizer.convert_ids_to_tokens(row[f"{side}_ids"]))
            row[f"{side}_mask"] = mask_of_segments(ids, row[f"{side}_token_rewards"], sign, baseline)
    config = DPOConfig(beta=work.settings.task.beta, **options)
    model = work.policy()
    train_and_save(DPOTrainer(model, config, rows, processing_class=work.tokenizer))
    return TrainedPolicy(model, trained_responses(work.tokenizer, rows, pairs))


def mask_of_segments(ids: Sequence[int], token_rewards: Sequence[float], sign: int, baseline: float) -> list[bool]:
    """Mask of the segments whose mean reward minus the baseline has the sign of the response.

    Example:
        >>> mask_of_segments([0, 0, 1, 1], [2.0, -1.0, 1.0, -3.0], sign=-1, baseline=0.0)
        [False, False, True, True]
    """
    rows = torch.tensor([ids])
    means = segkernel.segment_reduce(torch.tensor([token_rewards]), rows, max(ids) + 1, reduce="mean")
    agrees = ((means - baseline) * sign > 0).float()
    return (segkernel.segment_broadcast(agrees, rows)[0] > 0).tolist()


def by_punctuation(tokens: Sequence[str]) -> list[int]:
    """Segment ids where each separator ends a segment.

    Example:
        >>> by_punctuation(["Lima", "; ", "Tehran", "; "])
        [0, 0, 1, 1]
    """
    return [sum(token == END for token in tokens[:position]) for position in range(len(tokens))]


def fixed_length(tokens: Sequence[str], *, length: int) -> list[int]:
    """Segment ids of runs of `length` tokens.

    Example:
        >>> fixed_length(["Lima", "; ", "Tehran", "; "], length=3)
        [0, 0, 0, 1]
    """
    return [position // length for position in range(len(tokens))]


def whole_response(tokens: Sequence[str]) -> list[int]:
    """Segment ids of a single segment."""
    return [0] * len(tokens)


TOKEN_REWARDS = Step(
    "token rewards", token_rewards, uses=("pairs", "rewards"), needs=(Need(PAIRS), Need(REWARD, {"pairs": "rewards"}))
)


def rewarded(
    name: str, train: Callable[[CapitalsWorkspace, Job], TrainedPolicy], *needs: Step, **options: Any
) -> Method:
    """A variant of asr-dpo that trains on stored token rewards."""
    return Method(
        f"asr-dpo, {name}",
        training(train),
        uses=ASR_DPO.uses,
        needs=(Need(TOKEN_REWARDS), *map(Need, needs)),
        options={**ASR_DPO.options, "token_rewards": "column", **options},
        baseline=ASR_DPO.baseline,
    )


def fixed(name: str, segments: Callable[[Sequence[str]], list[int]]) -> Method:
    """A variant whose segments do not depend on the rewards."""
    method = rewarded(f"segments {name}", partial(fixed_segments, segments=segments))
    return replace(method, options=DPO.options)


NOISES = (0.5, 1.0, 2.0, 4.0)

NOISY = {noise: rewarded(f"noise {noise:g}", partial(add_noise, noise=noise)) for noise in NOISES}
TRUE_CREDIT = rewarded("true credit", true_rewards)
IMPLICIT = rewarded("implicit rewards", implicit_rewards, DPO)
FIXED = {
    "per token": fixed("per token", partial(fixed_length, length=1)),
    "3 tokens": fixed("of 3 tokens", partial(fixed_length, length=3)),
    "punctuation": fixed("by punctuation", by_punctuation),
    "whole response": fixed("whole response", whole_response),
}
