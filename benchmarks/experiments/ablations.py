"""What asr-dpo's parts are worth: sweeps that change one thing each, against asr-dpo as it is in `methods.py`.

Every variant reads the token rewards that the reward model gave once for its pairs, and changes them, or how they are
cut into segments.
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
from benchmarks.experiments.methods import ASR_BASELINE, ASR_DELTA, ASR_DPO, DPO, Method, Trained, training
from benchmarks.experiments.tasks import Step, Task, task_of
from benchmarks.experiments.workspace import Workspace, write_whole
from examples.capitals.measure import response_logprobs, responses_of_pairs
from examples.capitals.pipeline import train_quietly
from examples.capitals.task import END, token_credit
from segkernel.training import ASRDPOConfig, ASRDPOTrainer, DPOConfig, DPOTrainer
from segkernel.training.data.collators import PreferenceCollator
from segkernel.training.data.readers import SIDES
from segkernel.training.models import load_scoring_model
from segkernel.training.segmentation.segmenting import SEQUENCE_SIGNS, with_token_rewards
from segkernel.training.trainer.batches import Rows

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
    """The reward model's token rewards of the policies' pairs, as rows for the trainers."""
    rows = [pair.row(work.tokenizer) for pair in work.policy_pairs(task.pairs)]
    scorer = load_scoring_model(str(work.reward_folder(task)), work.tokenizer)
    config = DPOConfig(output_dir=str(work.model_folder(task)), per_device_eval_batch_size=512, use_cpu=True)
    for kind in ("difference", "prefix"):
        rewarded = with_token_rewards(rows, scorer, kind, PreferenceCollator.of(work.tokenizer), config)
        write_whole(work.model_folder(task) / f"{kind}.json", json.dumps(rewarded))
    return {}


def rewarded_rows(work: Workspace, task: Task, kind: str = "difference") -> Rows:
    stage = Task(work.seed, "token rewards", pairs=task.pairs, rewards=task.rewards)
    return json.loads((work.model_folder(stage) / f"{kind}.json").read_text())


def spread(rows: Rows) -> float:
    """The standard deviation of the token rewards, over all tokens."""
    return float(
        torch.tensor([reward for row in rows for side in SIDES for reward in row[f"{side}_token_rewards"]]).std()
    )


def train_on(work: Workspace, task: Task, rows: Rows, **options: Any) -> Trained:
    """asr-dpo on rows with token rewards."""
    options = {"baseline": ASR_BASELINE, "delta": ASR_DELTA, **options}
    config = ASRDPOConfig(beta=work.settings.task.beta, token_rewards="column", **options, **work.policy_options(task))
    model = work.policy()
    trainer = ASRDPOTrainer(model, config, rows, processing_class=work.tokenizer)
    train_quietly(trainer)
    pairs = work.policy_pairs(task.pairs)
    return Trained(model, responses_of_pairs(work.tokenizer, trainer.train_dataset, pairs))


def segmented(work: Workspace, task: Task, **options: Any) -> Trained:
    return train_on(work, task, rewarded_rows(work, task), **options)


def around(work: Workspace, task: Task, offset: float) -> Trained:
    """The trigger's baseline moved by `offset` standard deviations of the token rewards."""
    rows = rewarded_rows(work, task)
    return train_on(work, task, rows, baseline=str(float(ASR_BASELINE) + offset * spread(rows)))


def noisy(work: Workspace, task: Task, noise: float) -> Trained:
    """Gaussian noise on every token reward, in units of their standard deviation: a worse reward model."""
    rows, rng = rewarded_rows(work, task), random.Random(work.seed)
    scale = noise * spread(rows)
    for row in rows:
        for side in SIDES:
            row[f"{side}_token_rewards"] = [reward + rng.gauss(0, scale) for reward in row[f"{side}_token_rewards"]]
    return train_on(work, task, rows)


def prefix_rewards(work: Workspace, task: Task) -> Trained:
    return train_on(work, task, rewarded_rows(work, task, "prefix"), baseline="mean")


def true_rewards(work: Workspace, task: Task) -> Trained:
    """The true credit as token rewards: what a perfect reward model would give."""
    rows = rewarded_rows(work, task)
    for row, pair in zip(rows, work.policy_pairs(task.pairs), strict=True):
        for side in SIDES:
            tokens = work.tokenizer.convert_ids_to_tokens(row[f"{side}_ids"])
            row[f"{side}_token_rewards"] = token_credit(tokens, pair.right(side))
    return train_on(work, task, rows)


def implicit_rewards(work: Workspace, task: Task) -> Trained:
    """The rewards that a DPO policy implies: its log-ratio to the start model, up to DPO's beta."""
    rows, pairs = rewarded_rows(work, task), work.policy_pairs(task.pairs)
    trained, start = (
        response_logprobs(model, work.tokenizer, pairs)
        for model in (work.policy(task_of(DPO, work.seed, {"pairs": task.pairs})), work.policy())
    )
    for row, new, old in zip(rows, trained, start, strict=True):
        for index, side in enumerate(SIDES):
            row[f"{side}_token_rewards"] = [a - b for a, b in zip(new[index], old[index], strict=True)]
    return train_on(work, task, rows, baseline="mean")


def cut(work: Workspace, task: Task, *, segments: Callable[[Sequence[str]], list[int]]) -> Trained:
    """Segments that know nothing of the rewards; each has the sign of its mean reward against the baseline."""
    rows, pairs = rewarded_rows(work, task), work.policy_pairs(task.pairs)
    for row in rows:
        for side, sign in zip(SIDES, SEQUENCE_SIGNS, strict=True):
            ids = segments(work.tokenizer.convert_ids_to_tokens(row[f"{side}_ids"]))
            row[f"{side}_mask"] = mask_of_segments(ids, row[f"{side}_token_rewards"], sign)
    config = DPOConfig(beta=work.settings.task.beta, **work.policy_options(task))
    model = work.policy()
    train_quietly(DPOTrainer(model, config, rows, processing_class=work.tokenizer))
    return Trained(model, responses_of_pairs(work.tokenizer, rows, pairs))


def mask_of_segments(ids: Sequence[int], token_rewards: Sequence[float], sign: int) -> list[bool]:
    """Keep the segments whose mean reward, against asr-dpo's baseline, has the sign of the response.

    Example:
        >>> mask_of_segments([0, 0, 1, 1], [2.0, -1.0, 1.0, -3.0], sign=-1)
        [False, False, True, True]
    """
    rows = torch.tensor([ids])
    means = segkernel.segment_reduce(torch.tensor([token_rewards]), rows, max(ids) + 1, reduce="mean")
    agrees = ((means - float(ASR_BASELINE)) * sign > 0).float()
    return (segkernel.segment_broadcast(agrees, rows)[0] > 0).tolist()


def by_punctuation(tokens: Sequence[str]) -> list[int]:
    """
    Example:
        >>> by_punctuation(["Lima", "; ", "Tehran", "; "])
        [0, 0, 1, 1]
    """
    return [sum(token == END for token in tokens[:position]) for position in range(len(tokens))]


def of_length(tokens: Sequence[str], *, length: int) -> list[int]:
    """
    Example:
        >>> of_length(["Lima", "; ", "Tehran", "; "], length=3)
        [0, 0, 0, 1]
    """
    return [position // length for position in range(len(tokens))]


def whole(tokens: Sequence[str]) -> list[int]:
    return [0] * len(tokens)


def variant(
    sweep: str, label: str, train: Callable[[Workspace, Task], Trained], needs: dict[str, str] | None = None
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
        variant(f"delta, {name}", f"{delta:g}", partial(segmented, delta=delta, hold=hold))
        for delta in DELTAS
        if not (hold and delta == ASR_DELTA)
    ]


ABLATIONS: list[Step] = [
    Step("token rewards", token_rewards, uses=("pairs", "rewards"), needs={"reward": "rewards"}),
    *trigger(hold=True),
    *trigger(hold=False),
    *(variant("baseline", f"{offset:+g}", partial(around, offset=offset)) for offset in BASELINES if offset),
    variant("baseline", "mean", partial(segmented, baseline="mean")),
    variant("baseline", "median", partial(segmented, baseline="median")),
    *(variant("pivots alone", f"{pivot:g}", partial(segmented, delta=None, pivot_threshold=pivot)) for pivot in PIVOTS),
    variant("segments", "per token", partial(cut, segments=partial(of_length, length=1))),
    variant("segments", "3 tokens", partial(cut, segments=partial(of_length, length=3))),
    variant("segments", "punctuation", partial(cut, segments=by_punctuation)),
    variant("segments", "whole response", partial(cut, segments=whole)),
    *(variant("noise", f"{noise:g}", partial(noisy, noise=noise)) for noise in NOISES),
    variant("rewards", "prefix", prefix_rewards),
    variant("rewards", "DPO's implicit", implicit_rewards, needs={"dpo": "pairs"}),
    variant("rewards", "true credit", true_rewards),
]
# Where asr-dpo itself stands in each sweep: its label, and the place.
UNCHANGED = {
    "delta, Schmitt trigger": (f"{ASR_DELTA:g}", DELTAS.index(ASR_DELTA)),
    "baseline": ("0", BASELINES.index(0.0)),
    "segments": ("Schmitt trigger", 0),
    "noise": ("0", 0),
    "rewards": ("difference", 0),
}


def sweeps(thin: bool = False) -> dict[str, list[tuple[str, Method]]]:
    """Every sweep's labels and methods in their order, asr-dpo among them; `thin` keeps its first and last variant."""
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
