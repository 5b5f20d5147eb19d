"""Accuracy of a model's greedy answers to held-out questions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from examples.capitals.pairs import generate, is_well_formed
from examples.capitals.task import STAR, draw_countries, grade

Question = tuple[str, ...]


@dataclass(frozen=True)
class Accuracy:
    """Shares in [0, 1]. A malformed answer has no right part."""

    parts_right: float
    all_right: float
    starred_right: float
    malformed: float


def draw_questions(seed: int, count: int, parts: int) -> list[Question]:
    """Held-out questions of one seed."""
    rng = random.Random(f"questions {seed}")
    return [draw_countries(rng, parts) for _ in range(count)]


def answer_accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]
) -> Accuracy:
    """Accuracy of greedy answers."""
    answers = generate(model, tokenizer, questions, sample=False)
    grades = [
        grade(question, "".join(answer)) if is_well_formed(answer, len(question)) else None
        for question, answer in zip(questions, answers, strict=True)
    ]
    return accuracy(questions, grades)


def accuracy(questions: Sequence[Question], grades: Sequence[tuple[bool, ...] | None]) -> Accuracy:
    """Accuracy from the grades of each answer's parts; `None` stands for a malformed answer.

    Example:
        >>> accuracy([("*Peru", "Iran"), ("Peru", "*Iran")], [(True, False), None])
        Accuracy(parts_right=0.25, all_right=0.0, starred_right=0.5, malformed=0.5)
    """
    rows = [found or (False,) * len(question) for question, found in zip(questions, grades, strict=True)]
    parts = [right for row in rows for right in row]
    starred = [
        right
        for question, row in zip(questions, rows, strict=True)
        for country, right in zip(question, row, strict=True)
        if country.startswith(STAR)
    ]
    return Accuracy(
        parts_right=sum(parts) / len(parts),
        all_right=sum(all(row) for row in rows) / len(rows),
        starred_right=sum(starred) / len(starred),
        malformed=sum(found is None for found in grades) / len(grades),
    )
