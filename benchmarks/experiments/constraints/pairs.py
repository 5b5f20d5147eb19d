"""Preference pairs: two answers to a prompt, ranked as wholes by a judge who counts the constraints they meet."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from transformers import PreTrainedTokenizerBase

from benchmarks.experiments.constraints.answers import Answer, prompt_ids
from benchmarks.experiments.constraints.prompts import Prompt
from benchmarks.experiments.constraints.rules import RULES, violations

FIRST_WEIGHT = 3.5  # the most important rule outweighs the other three together


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, the preferred one first."""

    prompt: Prompt
    chosen: Answer
    rejected: Answer

    @property
    def contradiction(self) -> float:
        """Share of the violations in both answers that are in the chosen one."""
        chosen, rejected = (sum(violations(answer.text)) for answer in (self.chosen, self.rejected))
        return chosen / max(1, chosen + rejected)

    @property
    def is_adversarial(self) -> bool:
        """Whether the chosen answer violates the rules more often than the rejected one."""
        return self.contradiction > 1 / 2

    def row(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Row for the trainers."""
        return {
            "prompt_ids": prompt_ids(tokenizer, self.prompt),
            "chosen_ids": list(self.chosen.ids),
            "rejected_ids": list(self.rejected.ids),
        }


def judge(prompt: Prompt, answer: Answer) -> float:
    """Score of a whole answer: the weighted number of rules that it meets.

    Example:
        >>> judge(Prompt("Why?", first=0), Answer((), "Ships, to be sure.", True))
        2.0
    """
    weights = [FIRST_WEIGHT if index == prompt.first else 1.0 for index in range(len(RULES))]
    return sum(weight for weight, met in zip(weights, answer.met, strict=True) if met)


def make_pairs(answers: Sequence[tuple[Prompt, Sequence[Answer]]], seed: int) -> list[Pair]:
    """All pairs of well-formed answers to the same prompt that the judge ranks, in random order."""
    pairs = []
    for prompt, candidates in answers:
        scored = [(judge(prompt, answer), answer) for answer in candidates if answer.is_well_formed]
        for (score, one), (other_score, other) in combinations(scored, 2):
            if score != other_score:
                pairs.append(Pair(prompt, one, other) if score > other_score else Pair(prompt, other, one))
    random.Random(seed).shuffle(pairs)
    return pairs
