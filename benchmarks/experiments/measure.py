"""Measurements of a trained policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from transformers import PreTrainedModel

from benchmarks.experiments.credit import TrainedResponse, mask_agreement, moved_right, part_logprobs
from benchmarks.experiments.workspace import Workspace
from examples.capitals.answers import answer_accuracy, draw_questions


def measure_policy(work: Workspace, model: PreTrainedModel) -> dict[str, float]:
    """Accuracy of its answers, and the share of parts of held-out adversarial pairs that it moved the right way."""
    pairs = work.adversarial_held_out()
    before, after = (part_logprobs(policy, work.tokenizer, pairs) for policy in (work.policy(), model))
    return {**measure_answers(work, model), "moved_right": moved_right(before, after, pairs)}


def measure_answers(work: Workspace, model: PreTrainedModel) -> dict[str, float]:
    """Accuracy of greedy answers to held-out questions."""
    questions = draw_questions(work.seed, work.settings.questions, work.settings.task.parts)
    return asdict(answer_accuracy(model, work.tokenizer, questions))


def credit(responses: Sequence[TrainedResponse]) -> dict[str, float]:
    """Share of tokens that a policy was trained on, and its agreement with their true credit."""
    share, agreement, everything = mask_agreement(responses)
    return {"tokens_trained": share, "mask_agreement": agreement, "agreement_of_everything": everything}
