"""Grammar of answers: the errors that the checker Harper finds, from the optional package `harper-py`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

PACKAGE = "harper-py"
# Kinds of Harper's lints that are matters of taste.
STYLE = frozenset({"Enhancement", "Readability", "Redundancy", "Regionalism", "Style"})


def lints_per_100_words(texts: Sequence[str]) -> float | None:
    """Grammar lints per 100 words of the texts; `None` without the package or without a word.

    Lints of style do not count, nor do those of a missing comma, since a constraint forbids commas.
    """
    words = sum(len(text.split()) for text in texts)
    checker = linter()
    if checker is None or not words:
        return None
    lints = [lint for text in texts for lint in checker.lint(text, language="plaintext")]
    return 100 * sum(lint.lint_kind not in STYLE and not is_missing_comma(lint) for lint in lints) / words


def is_missing_comma(lint: Any) -> bool:
    """Whether every correction has a comma that the text lacks."""
    fixes = [suggestion.replacement_text for suggestion in lint.suggestions]
    return bool(fixes) and all(fix.count(",") > lint.problem_text.count(",") for fix in fixes)


@lru_cache(maxsize=1)  # reading the dictionary takes a second
def linter() -> Any:
    """Harper's checker of American English, or `None` if it is not installed."""
    try:
        from harper import Linter
    except ImportError:
        return None
    return Linter()
