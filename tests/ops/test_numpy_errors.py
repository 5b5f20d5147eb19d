"""The torch and the NumPy functions refuse the same calls with the same error type and message."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch

import segkernel
import segkernel.numpy as sk
from tests.helpers import BACKEND

pytestmark = pytest.mark.skipif(BACKEND != "cpu", reason="the NumPy functions run the CPU kernels")

REWARDS = np.array([[0.75, 0.5, 0.0], [-0.75, -1.0, 0.25]], np.float32)
PACKED = REWARDS.ravel()
PER_ROW = np.array([0.5, 1.0])

# The arguments of a valid call, and per call the ones that make it invalid.
VALID: dict[str, dict[str, Any]] = {
    "detect_pivots": {"rewards": REWARDS, "threshold": 1.0},
    "hysteresis": {"rewards": REWARDS, "low": -0.5, "high": 0.5},
    "segment": {"rewards": REWARDS, "delta": 0.5},
    "segment_by_entropy": {"entropy": REWARDS, "threshold": 1.0},
    "select_tokens": {"values": REWARDS, "fraction": 0.5},
    "redistribute": {"prefix_scores": REWARDS},
    "gae": {"rewards": REWARDS, "values": REWARDS},
    "discounted_sum": {"values": REWARDS, "discount": 0.5},
}
TOKENS = {name: next(iter(arguments)) for name, arguments in VALID.items()}

# For every function: tokens, masks and offsets that none of them accepts.
COMMON: dict[str, Callable[[str], dict[str, Any]]] = {
    "tokens: integers": lambda tokens: {tokens: REWARDS.astype(np.int64)},
    "tokens: bool": lambda tokens: {tokens: REWARDS > 0},
    "tokens: complex": lambda tokens: {tokens: REWARDS.astype(np.complex64)},
    "tokens: list": lambda tokens: {tokens: REWARDS.tolist()},
    "tokens: None": lambda tokens: {tokens: None},
    "tokens: [N] without offsets": lambda tokens: {tokens: PACKED},
    "tokens: no dimension": lambda tokens: {tokens: REWARDS[0, 0].reshape(())},
    "tokens: [B, T] with offsets": lambda tokens: {"offsets": np.array([0, 3, 6])},
    "mask: shape": lambda tokens: {"mask": np.ones((2, 2), bool)},
    "mask: would broadcast": lambda tokens: {"mask": np.ones((1, 3), bool)},
    "mask: list": lambda tokens: {"mask": [[1, 1, 1], [1, 1, 1]]},
    "mask: complex": lambda tokens: {"mask": np.ones((2, 3), np.complex64)},
    "mask: scalar": lambda tokens: {"mask": True},
    "offsets: list": lambda tokens: {tokens: PACKED, "offsets": [0, 3, 6]},
    "offsets: float": lambda tokens: {tokens: PACKED, "offsets": np.array([0.0, 3.0, 6.0])},
    "offsets: int16": lambda tokens: {tokens: PACKED, "offsets": np.array([0, 3, 6], np.int16)},
    "offsets: two dimensions": lambda tokens: {tokens: PACKED, "offsets": np.array([[0, 3, 6]])},
    "offsets: empty": lambda tokens: {tokens: PACKED, "offsets": np.array([], np.int64)},
    "offsets: strided": lambda tokens: {tokens: PACKED, "offsets": np.array([0, 9, 3, 9, 6])[::2]},
    "offsets: late start": lambda tokens: {tokens: PACKED, "offsets": np.array([1, 3, 6])},
    "offsets: decreasing": lambda tokens: {tokens: PACKED, "offsets": np.array([0, 4, 3, 6])},
    "offsets: too short": lambda tokens: {tokens: PACKED, "offsets": np.array([0, 3, 5])},
    "offsets: too long": lambda tokens: {tokens: PACKED, "offsets": np.array([0, 3, 7], np.int32)},
}

# Per function: options that it does not accept.
PARAMETERS = {
    "detect_pivots": ["threshold"],
    "hysteresis": ["low", "high"],
    "segment": ["pivot_threshold", "baseline", "delta", "sequence_sign"],
    "segment_by_entropy": ["threshold"],
    "select_tokens": ["fraction"],
    "redistribute": ["initial", "mix"],
    "gae": ["gamma", "lam", "value_lam"],
    "discounted_sum": ["discount"],
}
BAD_PARAMETERS: list[object] = [
    "high",
    True,
    [0.5, 1.0],
    1j,
    np.array([0.5]),
    np.array([0.5, 1.0, 1.5]),
    np.array([[0.5, 1.0]]),
    np.array([0.5, 1j], np.complex64),
    np.array([True, False]),
]
STATES = [2, -2, 0.5, "up", True, None, np.array([0.0, 1.0]), np.array([0, 2]), np.array([0, 256]), np.array([0])]
SWITCHES = [1, 0, None, "yes", np.array([True])]
SPECIFIC: dict[str, list[dict[str, Any]]] = {
    "detect_pivots": [{"threshold": value} for value in (None, -0.5, float("nan"), np.array([0.5, -0.5]))],
    "hysteresis": [
        {"low": None},
        {"low": 1.0},
        {"low": float("nan")},
        {"low": np.array([0.0, 1.0])},
        {"low": PER_ROW, "high": PER_ROW - 0.25},
        *({"initial": value} for value in STATES),
        *({"hold": value} for value in SWITCHES),
    ],
    "segment": [
        {"delta": None},
        {"delta": -0.5},
        {"delta": np.array([0.5, -0.25])},
        {"pivot_threshold": -0.5},
        {"baseline": None},
        *({"initial": value} for value in STATES),
        *({"hold": value} for value in SWITCHES),
        *({"keep_neutral": value} for value in SWITCHES),
        *({"reduce": value} for value in ("median", "logsumexp", None, 0)),
        *({"max_segments": value} for value in (-1, 1.5, True, "all")),
        {"rewards": PACKED, "offsets": np.array([0, 3, 6]), "max_segments": 2},
    ],
    "segment_by_entropy": [
        {"threshold": None},
        *({"min_length": value} for value in (0, -1, 1.5, None, True)),
    ],
    "select_tokens": [
        {"fraction": None},
        {"count": 1},
        *({"fraction": value} for value in (1.5, -0.5, float("nan"), np.array([0.5, 1.5]))),
        *(
            {"fraction": None, "count": value}
            for value in (-1, 1.5, True, "all", PER_ROW, np.array([1, -1]), np.array([1]), np.array([[1, 2]]))
        ),
        *({"largest": value} for value in SWITCHES),
        *({"scope": value} for value in ("rows", None)),
        *({"rounding": value} for value in ("up", None)),
        {"scope": "batch", "fraction": PER_ROW},
        {"scope": "batch", "fraction": None, "count": np.array([1, 2])},
    ],
    "redistribute": [
        {"initial": None},
        *({"sequence_rewards": value} for value in (1.0, [1.0, 2.0], PER_ROW[:1], PER_ROW > 0, PER_ROW[None])),
    ],
    "gae": [
        {"gamma": None},
        *({"holes": value} for value in ("fill", None, True)),
        *({"values": value} for value in (None, REWARDS.tolist(), REWARDS[:1], PACKED, REWARDS.astype(int))),
    ],
    "discounted_sum": [{"discount": None}],
}

CALLS = [
    *(
        pytest.param(name, change(TOKENS[name]), id=f"{name}-{label}")
        for name in VALID
        for label, change in COMMON.items()
    ),
    *(
        pytest.param(name, {parameter: value}, id=f"{name}-{parameter}={value!r}")
        for name, parameters in PARAMETERS.items()
        for parameter in parameters
        for value in BAD_PARAMETERS
    ),
    *(
        pytest.param(name, change, id=f"{name}-{list(change)[-1]}={list(change.values())[-1]!r}")
        for name, changes in SPECIFIC.items()
        for change in changes
    ),
]


def to_torch(value: object) -> object:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def error_of(function: Callable[..., object], arguments: dict[str, Any]) -> tuple[type, str]:
    with pytest.raises((TypeError, ValueError)) as caught:
        function(**arguments)
    return caught.type, str(caught.value)


def in_numpy_terms(message: str) -> str:
    """A message of a torch function with the terms of NumPy: array, offsets, no device."""
    message = message.replace("cu_seqlens", "offsets").replace(" on cpu", "")
    message = re.sub(r"\ba tensor\b", "an array", message)
    return message.replace("tensor", "array").replace("Tensor", "ndarray")


@pytest.mark.parametrize("name", VALID)
def test_valid_arguments_give_the_same_results_in_both(name: str) -> None:
    arguments = {key: to_torch(value) for key, value in VALID[name].items()}
    expected, actual = getattr(segkernel, name)(**arguments), getattr(sk, name)(**VALID[name])
    if not isinstance(expected, tuple):
        expected, actual = (expected,), (actual,)
    for out, wanted in zip(actual, expected, strict=True):
        if wanted is None:
            assert out is None
        else:
            np.testing.assert_array_equal(out, wanted.numpy(), strict=True)


@pytest.mark.parametrize(("name", "change"), CALLS)
def test_invalid_arguments_raise_the_same_error_in_both(name: str, change: dict[str, Any]) -> None:
    arguments = {**VALID.get(name, {}), **change}
    as_torch = {"cu_seqlens" if key == "offsets" else key: to_torch(value) for key, value in arguments.items()}
    kind, message = error_of(getattr(segkernel, name), as_torch)
    assert error_of(getattr(sk, name), arguments) == (kind, in_numpy_terms(message))
    assert re.match(r"\w+: expected .*, got ", message)


@pytest.mark.parametrize(
    "change",
    [
        {"mask": None},
        {"mask": [[1, 0]]},
        {"mask": np.ones((2, 3), np.complex64)},
        {"mask": np.ones(3)},
        {"offsets": np.array([0, 3, 6])},
        {"mask": np.ones(6), "offsets": [0, 3, 6]},
        {"mask": np.ones(6), "offsets": np.array([0, 4, 3, 6])},
        {"mask": np.ones(6), "offsets": np.array([0, 3, 5])},
    ],
    ids=str,
)
def test_segment_by_mask_refuses_the_same_arguments_in_both(change: dict[str, Any]) -> None:
    test_invalid_arguments_raise_the_same_error_in_both("segment_by_mask", {"mask": np.ones((2, 3)), **change})


@pytest.mark.parametrize("name", VALID)
def test_sparse_arguments_are_refused_by_both(name: str) -> None:
    dense = {key: to_torch(value) for key, value in VALID[name].items()}
    for argument in (TOKENS[name], "mask"):
        with pytest.raises(
            TypeError, match=rf"^{argument}: expected .* tensor, got sparse_coo float32 \[2, 3\] on cpu$"
        ):
            getattr(segkernel, name)(**{**dense, argument: torch.from_numpy(REWARDS).to_sparse()})
        with pytest.raises(TypeError, match=rf"^{argument}: expected .* array, got coo_array "):
            getattr(sk, name)(**{**VALID[name], argument: scipy.sparse.coo_array(REWARDS)})
