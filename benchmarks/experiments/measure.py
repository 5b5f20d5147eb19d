"""What is measured of a trained policy."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

from transformers import PreTrainedModel

from benchmarks.experiments.workspace import Workspace
from examples.capitals.measure import TrainedResponse, grade_greedy_answers, mask_agreement, moved_right, part_logprobs
from examples.capitals.task import KEY, draw_countries


@dataclass
class Stopwatch:
    """Seconds spent in the functions that `timing` wraps."""

    seconds: float = 0.0


@contextmanager
def timing(*functions: tuple[Any, str]) -> Iterator[Stopwatch]:
    """Time the calls of functions, given as (module or class, name), while the context lasts."""
    watch = Stopwatch()
    originals = [getattr(owner, name) for owner, name in functions]

    def timed(function: Any) -> Any:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                watch.seconds += time.perf_counter() - began

        return call

    try:
        for (owner, name), original in zip(functions, originals, strict=True):
            setattr(owner, name, timed(original))
        yield watch
    finally:
        for (owner, name), original in zip(functions, originals, strict=True):
            setattr(owner, name, original)


def measure_policy(work: Workspace, model: PreTrainedModel) -> dict[str, float]:
    """A trained policy's answers, and which way it moved the parts of held-out adversarial pairs."""
    pairs = work.adversarial_held_out()
    before, after = (part_logprobs(policy, work.tokenizer, pairs) for policy in (work.policy(), model))
    return {**measure_answers(work, model), "moved_right": moved_right(before, after, pairs)}


def measure_answers(work: Workspace, model: PreTrainedModel) -> dict[str, float]:
    """Greedy answers to held-out questions."""
    rng = random.Random(f"questions {work.seed}")
    questions = [draw_countries(rng, work.settings.task.parts, key=True) for _ in range(work.settings.questions)]
    return accuracies(questions, grade_greedy_answers(model, work.tokenizer, questions))


def accuracies(questions: Sequence[tuple[str, ...]], answers: Sequence[tuple[bool, ...] | None]) -> dict[str, float]:
    """Shares of parts, of whole answers and of starred parts that are right; a malformed answer has no right part.

    Example:
        >>> accuracies([("*Peru", "Iran"), ("Peru", "*Iran")], [(True, False), None])
        {'parts_right': 0.25, 'all_right': 0.0, 'key_right': 0.5, 'malformed': 0.5}
    """
    graded = [answer or (False,) * len(question) for question, answer in zip(questions, answers, strict=True)]
    keys = [
        right
        for question, row in zip(questions, graded, strict=True)
        for country, right in zip(question, row, strict=True)
        if country.startswith(KEY)
    ]
    return {
        "parts_right": mean([right for row in graded for right in row]),
        "all_right": mean([all(row) for row in graded]),
        "key_right": mean(keys),
        "malformed": mean([answer is None for answer in answers]),
    }


def credit(responses: Sequence[TrainedResponse]) -> dict[str, float]:
    """How many tokens a policy was trained on, and how well that agrees with their true credit."""
    share, agreement, everything = mask_agreement(responses)
    return {"tokens_trained": share, "mask_agreement": agreement, "agreement_of_everything": everything}


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
