"""Ablations of asr-dpo: sweeps that change one option each, compared with asr-dpo as `methods.py` configures it.

The reward model's token rewards are computed once per seed and source; each variant modifies them or their
segmentation.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

import segkernel
from benchmarks.experiments.credit import response_logprobs, responses_of_pairs
from benchmarks.experiments.methods import ASR_BASELINE, ASR_DELTA, ASR_DPO, DPO, Method, TrainedPolicy, training
from benchmarks.experiments.steps import Step, task_of
from benchmarks.experiments.tasks import Task
from benchmarks.experiments.workspace import Workspace, write_atomically
from examples.capitals.task import END, token_credit
from examples.capitals.training import train_and_save
from segkernel.training import ASRDPOConfig, ASRDPOTrainer, DPOConfig, DPOTrainer
from segkernel.training.data.collators import PreferenceCollator
from segkernel.training.data.columns import PAIRS, SEQUENCE_SIGNS, SIDES
from segkernel.training.data.tables import to_dataset
from segkernel.training.models import load_scoring_model
from segkernel.training.segmentation.pairs import with_token_rewards

Rows = list[dict[str, Any]]

DELTAS = (0.0, 0.25, 0.5, 1.0, 2.0)
BASELINES = (-1.0, -0.5, 0.0, 0.5, 1.0)
PIVOTS = (0.25, 0.5, 1.0, 2.0)
NOISES = (0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Variant(Method):
    """One point of a sweep."""

    sweep: str = ""
    label: str = ""


def token_rewards(work: Workspace, task: Task) -> dict[str, Any]:
    """Compute the token rewards of the policies' pairs and store them as rows for the trainers."""
    rows = to_dataset([pair.row(work.tokenizer) for pair in work.policy_pairs(task.pairs)], PAIRS)
    scorer = load_scoring_model(str(work.reward_folder(task)), work.tokenizer)
    config = DPOConfig(output_dir=str(work.model_folder(task)), per_device_eval_batch_size=512, use_cpu=True)
    for kind in ("difference", "prefix"):
        rewarded = with_token_rewards(rows, scorer, kind, PreferenceCollator.of(work.tokenizer), config)
        write_atomically(work.model_folder(task) / f"{kind}.json", json.dumps(rewarded.to_list()))
    return {}


def rewarded_rows(work: Workspace, task: Task, kind: str = "difference") -> Rows:
    stage = Task(work.seed, "token rewards", pairs=task.pairs, rewards=task.rewards)
    return json.loads((work.model_folder(stage) / f"{kind}.json").read_text())


def reward_deviation(rows: Rows) -> float:
    """Standard deviation of the token rewards over all tokens."""
    return float(
        torch.tensor([reward for row in rows for side in SIDES for reward in row[f"{side}_token_rewards"]]).std()
    )


def train_on(work: Workspace, task: Task, rows: Rows, **options: Any) -> TrainedPolicy:
    """Train asr-dpo on rows with token rewards."""
    options = {"baseline": ASR_BASELINE, "delta": ASR_DELTA, **options}
    config = ASRDPOConfig(beta=work.settings.task.beta, token_rewards="column", **options, **work.policy_options(task))
    model = work.policy()
    trainer = ASRDPOTrainer(model, config, rows, processing_class=work.tokenizer)
    train_and_save(trainer)
    pairs = work.policy_pairs(task.pairs)
    return TrainedPolicy(model, responses_of_pairs(work.tokenizer, trainer.train_dataset, pairs))


def change_options(work: Workspace, task: Task, **options: Any) -> TrainedPolicy:
    """Train asr-dpo with other options."""
    return train_on(work, task, rewarded_rows(work, task), **options)


def shift_baseline(work: Workspace, task: Task, offset: float) -> TrainedPolicy:
    """Shift the trigger's baseline by `offset` standard deviations of the token rewards."""
    rows = rewarded_rows(work, task)
    return train_on(work, task, rows, baseline=str(float(ASR_BASELINE) + offset * reward_deviation(rows)))


def add_noise(work: Workspace, task: Task, noise: float) -> TrainedPolicy:
    """Add Gaussian noise to every token reward, in units of their standard deviation: a worse reward model."""
    rows, rng = rewarded_rows(work, task), random.Random(work.seed)
    scale = noise * reward_deviation(rows)
    for row in rows:
        for side in SIDES:
            row[f"{side}_token_rewards"] = [reward + rng.gauss(0, scale) for reward in row[f"{side}_token_rewards"]]
    return train_on(work, task, rows)


def prefix_rewards(work: Workspace, task: Task) -> TrainedPolicy:
    """Use the scores of prefixes as token rewards, instead of their differences."""
    return train_on(work, task, rewarded_rows(work, task, "prefix"), baseline="mean")


def true_rewards(work: Workspace, task: Task) -> TrainedPolicy:
    """Use the true credit as token rewards: a perfect reward model."""
    rows = rewarded_rows(work, task)
    for row, pair in zip(rows, work.policy_pairs(task.pairs), strict=True):
        for side in SIDES:
            tokens = work.tokenizer.convert_ids_to_tokens(row[f"{side}_ids"])
            row[f"{side}_token_rewards"] = token_credit(tokens, pair.right(side))
    return train_on(work, task, rows)


def implicit_rewards(work: Workspace, task: Task) -> TrainedPolicy:
    """Use the implicit rewards of a DPO policy: its log-ratio to the start model, without the factor beta."""
    rows, pairs = rewarded_rows(work, task), work.policy_pairs(task.pairs)
    trained, start = (
        response_logprobs(model, work.tokenizer, pairs)
        for model in (work.policy(task_of(DPO, work.seed, {"pairs": task.pairs})), work.policy())
    )
    for row, new, old in zip(rows, trained, start, strict=True):
        for index, side in enumerate(SIDES):
            row[f"{side}_token_rewards"] = [a - b for a, b in zip(new[index], old[index], strict=True)]
    return train_on(work, task, rows, baseline="mean")


def fixed_segments(work: Workspace, task: Task, *, segments: Callable[[Sequence[str]], list[int]]) -> TrainedPolicy:
    """Segment independently of the rewards; a segment's sign is that of its mean reward minus the baseline."""
    rows, pairs = rewarded_rows(work, task), work.policy_pairs(task.pairs)
    for row in rows:
        for side, sign in zip(SIDES, SEQUENCE_SIGNS, strict=True):
            ids = segments(work.tokenizer.convert_ids_to_tokens(row[f"{side}_ids"]))
            row[f"{side}_mask"] = mask_of_segments(ids, row[f"{side}_token_rewards"], sign)
    config = DPOConfig(beta=work.settings.task.beta, **work.policy_options(task))
    model = work.policy()
    train_and_save(DPOTrainer(model, config, rows, processing_class=work.tokenizer))
    return TrainedPolicy(model, responses_of_pairs(work.tokenizer, rows, pairs))


def mask_of_segments(ids: Sequence[int], token_rewards: Sequence[float], sign: int) -> list[bool]:
    """Mask of the segments whose mean reward minus asr-dpo's baseline has the sign of the response.

    Example:
        >>> mask_of_segments([0, 0, 1, 1], [2.0, -1.0, 1.0, -3.0], sign=-1)
        [False, False, True, True]
    """
    rows = torch.tensor([ids])
    means = segkernel.segment_reduce(torch.tensor([token_rewards]), rows, max(ids) + 1, reduce="mean")
    agrees = ((means - float(ASR_BASELINE)) * sign > 0).float()
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


def variant(
    sweep: str, label: str, train: Callable[[Workspace, Task], TrainedPolicy], needs: dict[str, str] | None = None
) -> Variant:
    return Variant(
        f"asr-dpo, {sweep}: {label}",
        training(train),
        uses=ASR_DPO.uses,
        needs={"token rewards": "pairs", **(needs or {})},
        learning_rate=ASR_DPO.learning_rate,
        baseline=ASR_DPO.name,
        sweep=sweep,
        label=label,
    )


def trigger(hold: bool) -> list[Variant]:
    name = "Schmitt trigger" if hold else "plain threshold"
    return [
        variant(f"delta, {name}", f"{delta:g}", partial(change_options, delta=delta, hold=hold))
        for delta in DELTAS
        if not (hold and delta == ASR_DELTA)
    ]


ABLATIONS: list[Step] = [
    Step("token rewards", token_rewards, uses=("pairs", "rewards"), needs={"reward": "rewards"}),
    *trigger(hold=True),
    *trigger(hold=False),
    *(variant("baseline", f"{offset:+g}", partial(shift_baseline, offset=offset)) for offset in BASELINES if offset),
    variant("baseline", "mean", partial(change_options, baseline="mean")),
    variant("baseline", "median", partial(change_options, baseline="median")),
    *(
        variant("pivots only", f"{pivot:g}", partial(change_options, delta=None, pivot_threshold=pivot))
        for pivot in PIVOTS
    ),
    variant("segments", "per token", partial(fixed_segments, segments=partial(fixed_length, length=1))),
    variant("segments", "3 tokens", partial(fixed_segments, segments=partial(fixed_length, length=3))),
    variant("segments", "punctuation", partial(fixed_segments, segments=by_punctuation)),
    variant("segments", "whole response", partial(fixed_segments, segments=whole_response)),
    *(variant("noise", f"{noise:g}", partial(add_noise, noise=noise)) for noise in NOISES),
    variant("rewards", "prefix", prefix_rewards),
    variant("rewards", "DPO's implicit", implicit_rewards, needs={"dpo": "pairs"}),
    variant("rewards", "true credit", true_rewards),
]
# Position of the unchanged asr-dpo in each sweep: label and index.
UNCHANGED = {
    "delta, Schmitt trigger": (f"{ASR_DELTA:g}", DELTAS.index(ASR_DELTA)),
    "baseline": ("0", BASELINES.index(0.0)),
    "segments": ("Schmitt trigger", 0),
    "noise": ("0", 0),
    "rewards": ("difference", 0),
}


def sweeps(thin: bool = False) -> dict[str, list[tuple[str, Method]]]:
    """Labels and methods of every sweep in order, including asr-dpo itself; `thin` keeps the first and last variant."""
    found: dict[str, list[tuple[str, Method]]] = {}
    for step in ABLATIONS:
        if isinstance(step, Variant):
            found.setdefault(step.sweep, []).append((step.label, step))
    for sweep, points in found.items():
        if thin:
            del points[1:-1]
        if sweep in UNCHANGED:
            label, place = UNCHANGED[sweep]
            points.insert(min(place, 1) if thin else place, (label, ASR_DPO))
    return found
