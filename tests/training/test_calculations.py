"""Rewards for right calculations: what counts as right, and where it is scored."""

from typing import Any

import pytest
import torch

from segkernel.training.rewards.calculations import CalculationScorer, check_calculations


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<<48/2=24>>", True),
        ("<<48/2=25>>", False),
        ("<<(3+4)*-2=-14>>", True),
        ("<<50/60=0.83>>", True),  # rounded to what is stated
        ("<<50/60=0.84>>", False),
        ("<<1/3=.3333>>", True),
        ("<<12/60=1/5>>", False),  # a result is a number
        ("<<1/0=0>>", False),
        ("<<2**9=512>>", False),  # not of the four operations
        ("<<__import__('os')=1>>", False),
        ("<<1+=1>>", False),
        ("<<5=5>>", True),
        ("<<5=>>", False),
    ],
)
def test_check_calculations_literals(text: str, right: bool) -> None:
    assert check_calculations(f"so {text}") == [(3 + len(text), right)]


def test_calculation_scorer_changes_at_the_end_of_each_annotation(tokenizer: Any) -> None:
    prompt, response = tokenizer("<<1=2>>")["input_ids"], tokenizer("a<<1=1>>é<<2=3>>")["input_ids"]
    texts = [str(tokenizer.decode(response[: end + 1])) for end in range(len(response))]
    batch = {
        "input_ids": torch.tensor([[*prompt, *response, 0]]),
        "response_mask": torch.tensor([[False] * len(prompt) + [True] * len(response) + [False]]),
    }
    expected = [0.0 if "1=1>>" not in text else 1.0 if "2=3>>" not in text else 0.0 for text in texts]
    assert 1.0 in expected
    assert CalculationScorer(tokenizer)(batch)[0].tolist() == [0.0] * len(prompt) + expected + [0.0]
