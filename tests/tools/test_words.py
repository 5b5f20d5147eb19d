"""Style of comments, docstrings and pages: the rules for words in CONTRIBUTING.md that a pattern can check."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUFFIXES = {".py", ".pyi", ".h", ".cuh", ".cpp", ".cu", ".md", ".toml", ".yml", ".j2", ""}

# Each pattern with a line that it must find.
PATTERNS = {
    "sentence that starts with a relative clause": (
        re.compile(r'(?:(?<!#)#|//|"""|^>?)\s?(?:What|Of|Whoever|Whose|Which|Where) [a-z]'),
        "# What a block tells the blocks after it",
    ),
    "word without a term": (re.compile(r"\b(?:whoever|beside|nobody)\b", re.IGNORECASE), "# a file beside it"),
    "personification": (
        re.compile(r"\b(?:hears?|tells?|asks?|knows) (?:of|that|for|it|the|from|nothing)\b"),
        "# the host asks for it",
    ),
    "British spelling": (
        re.compile(
            r"(?:normal|token|vector|initial|summar|optim|synchron|memor|serial|material|general|minim|maxim|organ|recogn|"
            r"quant|regular|parallel|util)is(?:e|es|ed|er|ing|ation)\b"
            r"|\b(?:colour|behaviour|neighbour|favour|centre|labelled\b|learnt|modelling|towards)",
            re.IGNORECASE,
        ),
        "# normalised rewards",
    ),
}


def sources() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    skipped = {"LICENSE", "tests/tools/test_words.py"}
    return [ROOT / name for name in listed if name not in skipped and Path(name).suffix in SUFFIXES]


@pytest.mark.parametrize("rule", PATTERNS)
def test_words_pattern_finds_its_example(rule: str) -> None:
    pattern, example = PATTERNS[rule]
    assert pattern.search(example)


@pytest.mark.parametrize("rule", PATTERNS)
def test_words_follow_the_rules(rule: str) -> None:
    pattern, _ = PATTERNS[rule]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []
