"""Constraints on an answer's wording: where a text violates them, and the true credit of its tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """A constraint: every match of `pattern` is a violation, and its characters are the violation's span."""

    name: str
    instruction: str
    pattern: re.Pattern[str]

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Character spans of the violations in a text."""
        return [match.span() for match in self.pattern.finditer(text)]


RULES = (
    Rule("no commas", "no commas", re.compile(",")),
    Rule('no "to"', 'no "to"', re.compile(r"\bto\b", re.IGNORECASE)),
    Rule("no long words", "no words of more than ten letters", re.compile(r"[^\W\d_]{11,}")),
    Rule('no "-ing"', 'no words in "-ing"', re.compile(r"\b[^\W\d_]+ing\b", re.IGNORECASE)),
)


def violations(text: str) -> tuple[int, ...]:
    """Number of violations of each rule.

    Example:
        >>> violations("Close to the sun, rising over an extraordinary sea")
        (1, 1, 1, 1)
    """
    return tuple(len(rule.spans(text)) for rule in RULES)


def violation_spans(text: str) -> list[tuple[int, int]]:
    """Character spans of the violations of all rules."""
    return [span for rule in RULES for span in rule.spans(text)]


def token_credit(pieces: Sequence[str]) -> list[int]:
    """True credit of each token of an answer: -1 for a token that overlaps a violation, else +1.

    Args:
        pieces: texts of the tokens, which join to the answer.

    Example:
        >>> token_credit(["To", " sun", ",", " shin", "ing"])
        [-1, 1, -1, -1, -1]
    """
    text = "".join(pieces)
    bad = violation_spans(text)
    credit, start = [], 0
    for piece in pieces:
        end = start + len(piece)
        credit.append(-1 if any(start < last and first < end for first, last in bad) else 1)
        start = end
    return credit
