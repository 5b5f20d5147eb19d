"""Quantities of one response at a time, in plain floats: what the batched trainers are held to."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pytest
import torch
from torch import nn

Ids = Sequence[int]


def softmax(logits: Sequence[float]) -> list[float]:
    largest = max(logits)
    total = sum(math.exp(x - largest) for x in logits)
    return [math.exp(x - largest) / total for x in logits]


def logits_alone(model: nn.Module, prompt: Ids, response: Ids) -> list[list[float]]:
    """Logits that predict each response token."""
    return _outputs(model, prompt, response)[len(prompt) - 1 : -1]


def logprobs_alone(model: nn.Module, prompt: Ids, response: Ids, temperature: float = 1.0) -> list[float]:
    """log pi(y_t | x, y_<t) of every response token."""
    found = []
    for token, logits in zip(response, logits_alone(model, prompt, response), strict=True):
        z = [x / temperature for x in logits]
        found.append(z[token] - math.log(sum(math.exp(x - max(z)) for x in z)) - max(z))
    return found


def entropies_alone(model: nn.Module, prompt: Ids, response: Ids) -> list[float]:
    """Entropy of the distribution that each response token was drawn from."""
    distributions = map(softmax, logits_alone(model, prompt, response))
    return [-sum(p * math.log(p) for p in distribution if p > 0) for distribution in distributions]


def scores_alone(model: nn.Module, prompt: Ids, response: Ids) -> list[float]:
    """s_0, the score of the prompt, to s_T, the score of the whole."""
    return [row[0] for row in _outputs(model, prompt, response)[len(prompt) - 1 :]]


def gae_by_hand(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = sum_k (gamma lam)^k delta_{t+k}, delta_t = r_t + gamma V_{t+1} - V_t, V_{T+1} = 0."""
    count = len(rewards)
    after = [*values[1:], 0.0]
    deltas = [rewards[t] + gamma * after[t] - values[t] for t in range(count)]
    return [sum((gamma * lam) ** k * deltas[t + k] for k in range(count - t)) for t in range(count)]


def schmitt(rewards: list[float], low: float, high: float, *, hold: bool = True) -> list[int]:
    """The trigger's state at every token, neutral before the first."""
    state, states = 0, []
    for reward in rewards:
        state = 1 if reward > high else -1 if reward < low else state if hold else 0
        states.append(state)
    return states


def smoothed(row: list[float], window: int) -> list[float]:
    """Means over the tokens t - window // 2 to t + (window - 1) // 2 that there are."""
    around = [row[max(0, t - window // 2) : t + (window - 1) // 2 + 1] for t in range(len(row))]
    return [sum(values) / len(values) for values in around]


def debounced(states: list[int], minimum: int) -> list[int]:
    """A state is taken over once it lasts, and then from its first token on; the one before goes on until then."""
    runs = [(state, len(list(run))) for state, run in groupby(states)]
    lasting = [state for state, length in runs if length >= min(minimum, len(states))]
    current = lasting[0] if lasting else 0
    found: list[int] = []
    for state, length in runs:
        if length >= min(minimum, len(states)):
            current = state
        found += [current] * length
    return found


def whitened(rows: list[list[float]]) -> list[list[float]]:
    flat = [value for row in rows for value in row]
    mean = sum(flat) / len(flat)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in flat) / len(flat))
    return [[(value - mean) / (deviation + 1e-8) for value in row] for row in rows]


def in_response(values: torch.Tensor, batch: dict[str, torch.Tensor], responses: Sequence[Ids]) -> list[list[float]]:
    """The values of each row's response tokens, `batch["response_mask"]` or not; elsewhere there must be 0."""
    rows = []
    for row, response in enumerate(responses):
        end = int(batch["attention_mask"][row].nonzero()[-1]) + 1
        rows.append(values[row, end - len(response) : end].tolist())
        outside = values[row].clone()
        outside[end - len(response) : end] = 0
        assert not outside.any()
    return rows


def assert_rows(found: list[list[float]], expected: list[list[float]]) -> None:
    for left, right in zip(found, expected, strict=True):
        assert left == pytest.approx(right, rel=2e-4, abs=2e-5)


@torch.no_grad()
def _outputs(model: Any, prompt: Ids, response: Ids) -> list[list[float]]:
    return model.eval()(torch.tensor([[*prompt, *response]])).logits[0].double().tolist()
