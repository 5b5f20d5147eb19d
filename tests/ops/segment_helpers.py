"""Segments by entropy for one response at a time, in plain floats, and models that make some."""

from typing import Any

import torch
from torch import nn

from tests.training.trainer_helpers import tiny_lm, tiny_reward_model

# Published normalisers, arXiv 2501.02790: Phi-3-mini at an entropy of 1.75, Llama-3.1-8B at 2.0.
PHI3: dict[str, Any] = {"mean": (0.7668, 0.4705), "std": (0.2569, 2.8339)}
LLAMA3: dict[str, Any] = {"mean": (0.8345, 0.8798), "std": (0.4780, 3.7358)}


def segment_ends_by_hand(entropies: list[float], threshold: float, min_length: int = 1) -> list[int]:
    """Index of each segment's last token: the token before one of high entropy, and the response's last."""
    ends, length = [], 0
    for t in range(len(entropies)):
        if t > 0 and entropies[t] > threshold and length >= min_length:
            ends.append(t - 1)
            length = 0
        length += 1
    return [*ends, len(entropies) - 1]


def threshold_amid(entropies: list[float]) -> float:
    """A threshold in the middle third of them, and far enough from any for rounding not to decide."""
    found = sorted(entropies)
    middle = range(len(found) // 3, 2 * len(found) // 3)
    index = max(middle, key=lambda i: found[i + 1] - found[i])
    assert found[index + 1] - found[index] > 1e-3
    return (found[index] + found[index + 1]) / 2


def unsure_lm(tokenizer: Any) -> nn.Module:
    """A language model whose entropy differs from token to token."""
    model = tiny_lm(tokenizer, seed=3)
    with torch.no_grad():
        model.lm_head.weight.mul_(25)
    return model.eval()


def lively_reward_model(tokenizer: Any) -> nn.Module:
    """A reward model whose scores lie some way apart."""
    model = tiny_reward_model(tokenizer, seed=4)
    with torch.no_grad():
        model.score.weight.mul_(20)
    return model.eval()
