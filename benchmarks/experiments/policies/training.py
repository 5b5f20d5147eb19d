"""Trained policies: what a method's step returns, and how it is timed and measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from transformers import PreTrainedModel

from benchmarks.experiments.framework.jobs import Job
from benchmarks.experiments.policies.credit import TrainedResponse, credit_measures
from segkernel.training.segmentation.options import SegmentOptions


@dataclass
class TrainedPolicy:
    """A trained policy.

    Args:
        model: the policy.
        responses: what it was trained on, with masks and true credit.
        segmenting: seconds spent on segments and masks.
        measures: further measures of its training.
    """

    model: PreTrainedModel
    responses: Sequence[TrainedResponse]
    segmenting: float = 0.0
    measures: dict[str, float] = field(default_factory=dict)


def train_and_measure(
    work: Any,
    job: Job,
    *,
    train: Callable[[Any, Job], TrainedPolicy],
    measure: Callable[[Any, PreTrainedModel], Mapping[str, float | None]],
) -> dict[str, Any]:
    """Train a policy, with its time, then measure it. `functools.partial` makes it the function of a step."""
    began = time.perf_counter()
    trained = train(work, job)
    seconds = time.perf_counter() - began
    return {
        **measure(work, trained.model),
        **credit_measures(trained.responses),
        **trained.measures,
        "seconds": seconds,
        "segmenting": trained.segmenting / seconds,
    }


def segment_options(**options: Any) -> dict[str, Any]:
    """All options of segmentation with their defaults, so that a job's name changes when a default does.

    Example:
        >>> segment_options(delta=0.1)["delta"], segment_options()["hold"]
        (0.1, True)
    """
    resolved = SegmentOptions(**options)
    return {found.name: getattr(resolved, found.name) for found in fields(resolved)}
