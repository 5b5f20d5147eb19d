"""The scan operators against their references: every kind of row, padded and packed, poison at masked tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

import segkernel
from segkernel import reference
from tests.helpers import EVERY_DTYPE, LENGTHS, Batch, assert_identical, assert_near, random_batch, random_scores


def detect_pivots_options(B: int) -> list[dict[str, Any]]:
    return [{"threshold": threshold} for threshold in (0.0, 0.5, 1.3, torch.linspace(0, 2, B))]


def hysteresis_options(B: int) -> list[dict[str, Any]]:
    return [
        {"low": -0.5, "high": 0.75},
        {"low": -1.0, "high": 1.0, "hold": False, "initial": 1},
        {"low": torch.linspace(-2, 0.5, B), "high": torch.linspace(0.5, 1, B), "initial": torch.arange(B) % 3 - 1},
    ]


def segment_by_entropy_options(B: int) -> list[dict[str, Any]]:
    return [
        {"threshold": 0.5},
        {"threshold": -0.25, "min_length": 4},
        {"threshold": torch.linspace(-1, 1, B), "min_length": 20},
    ]


def redistribute_options(B: int) -> list[dict[str, Any]]:
    per_row = {"initial": torch.linspace(-1, 1, B), "sequence_rewards": torch.linspace(-2, 3, B)}
    return [{}, {"initial": 0.25}, {"mix": 0.3, **per_row}, {"mix": 0.0, **per_row}]


def gae_options(B: int) -> list[dict[str, Any]]:
    per_row = {"gamma": torch.linspace(0.9, 1, B), "lam": torch.linspace(0, 1, B)}
    return [{}, {**per_row, "value_lam": 1.0}, {**per_row, "value_lam": torch.linspace(1, 0, B), "holes": "decay"}]


def discounted_sum_options(B: int) -> list[dict[str, Any]]:
    return [{"discount": 1.0}, {"discount": torch.linspace(0, 1, B)}]


def recursion_tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 5e-5}


# Operator, number of token arguments, options for B rows; tolerances per dtype of operators that add up, else None.
OPS: list[tuple[str, int, Callable[[int], list[dict[str, Any]]], Callable[[torch.dtype], dict[str, float]] | None]] = [
    ("detect_pivots", 1, detect_pivots_options, None),
    ("hysteresis", 1, hysteresis_options, None),
    ("segment_by_entropy", 1, segment_by_entropy_options, None),
    ("redistribute", 1, redistribute_options, lambda dtype: {"rtol": 1e-6, "atol": 1e-6}),
    ("gae", 2, gae_options, recursion_tolerance),
    ("discounted_sum", 1, discounted_sum_options, recursion_tolerance),
]


def packed(batch: Batch, outputs: Any) -> Any:
    """Outputs for the packed rows: those per token are packed, those per row stay as they are."""
    return tree_map_only(Tensor, lambda out: batch.pack(out) if out.dim() == 2 else out, outputs)


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("op", OPS, ids=lambda op: op[0])
def test_scan_equals_its_reference(op: Any, T: int, dtype: torch.dtype) -> None:
    name, arity, options_of, tolerance = op
    batch = random_batch(T)
    B = len(batch.lengths)
    tokens = [batch.poison(random_scores(B, T, dtype=dtype)) for _ in range(arity)]
    packed_tokens = [batch.pack(values) for values in (*tokens, batch.mask)]
    for options in options_of(B):
        expected = getattr(reference, name)(*tokens, batch.mask, **options)
        padded_result = getattr(segkernel, name)(*tokens, batch.mask, **options)
        packed_result = getattr(segkernel, name)(*packed_tokens, cu_seqlens=batch.cu_seqlens, **options)
        if tolerance is None:
            assert_identical(padded_result, expected)
        else:
            assert_near(padded_result, expected, **tolerance(dtype))
        assert_identical(packed_result, packed(batch, padded_result))


@pytest.mark.parametrize("op", OPS, ids=lambda op: op[0])
def test_scan_passes_holes_of_several_thousand_tokens(op: Any) -> None:
    """The CUDA kernels give a row of this length several blocks, some of them without a valid token."""
    name, arity, options_of, tolerance = op
    mask = torch.zeros(4, 5000, dtype=torch.bool)
    mask[0, [3, 4200]] = True  # one token on each side of the hole
    mask[1, 1000:1030] = True  # across the border of two blocks, then only padding
    mask[2, 2048::3] = True
    tokens = [random_scores(4, 5000).masked_fill(~mask, torch.nan) for _ in range(arity)]
    for options in options_of(4):
        found = getattr(segkernel, name)(*tokens, mask, **options)
        expected = getattr(reference, name)(*tokens, mask, **options)
        if tolerance is None:
            assert_identical(found, expected)
        else:
            assert_near(found, expected, **tolerance(torch.float32))


@pytest.mark.parametrize("op", OPS, ids=lambda op: op[0])
def test_padding_of_several_thousand_tokens_does_not_change_the_bits(op: Any) -> None:
    name, arity, options_of, _ = op
    mask = torch.rand(3, 3000) < 0.8
    tokens = [random_scores(3, 3000) for _ in range(arity)]
    padded = [torch.nn.functional.pad(values, (0, 4000), value=torch.nan) for values in tokens]
    for options in options_of(3):
        found = getattr(segkernel, name)(*padded, torch.nn.functional.pad(mask, (0, 4000)), **options)
        expected = getattr(segkernel, name)(*tokens, mask, **options)
        cut = tree_map_only(Tensor, lambda out: out[:, :3000] if out.dim() == 2 else out, found)
        assert_identical(cut, expected)
