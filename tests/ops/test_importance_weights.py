import math
import re
from typing import Any

import pytest
import torch

import segkernel
from segkernel import reference
from tests.helpers import EVERY_DTYPE, assert_identical, assert_near, random_batch, unchanged

NAN = float("nan")
# Ratios 1, 2, 4 and 1/2 of the valid tokens, in two rows.
LOG_RATIOS = torch.tensor([[0.0, NAN, math.log(2.0)], [math.log(4.0), math.log(0.5), NAN]])
ROLLOUT = torch.tensor([[-1.0, NAN, -2.0], [-3.0, -0.25, NAN]])
MASK = torch.tensor([[1, 0, 1], [1, 1, 0]])


def weights_of(mask: torch.Tensor = MASK, **options: Any) -> tuple[torch.Tensor, list]:
    weights, keep = segkernel.importance_weights(ROLLOUT + LOG_RATIOS, ROLLOUT, mask, **options)
    assert (weights.dtype, keep.dtype) == (torch.float32, torch.bool)
    return weights, keep.tolist()


def assert_weights(actual: tuple[torch.Tensor, list], weights: list, keep: list) -> None:
    assert_near(actual[0], torch.tensor(weights), rtol=1e-6, atol=1e-6)
    assert actual[1] == keep


def test_importance_weights_per_token_literals():
    valid = (MASK == 1).tolist()
    assert_weights(weights_of(), [[1.0, 0.0, 2.0], [4.0, 0.5, 0.0]], valid)
    assert_weights(weights_of(low=0.75, high=3.0), [[1.0, 0.0, 2.0], [3.0, 0.75, 0.0]], valid)
    low, high = torch.tensor([1.5, 0.0]), torch.tensor([9.0, 3.0])
    assert_weights(weights_of(low=low, high=high), [[1.5, 0.0, 2.0], [3.0, 0.5, 0.0]], valid)
    rejected = [[True, False, True], [False, False, False]]
    assert_weights(weights_of(mode="mask", low=0.75, high=3.0), [[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]], rejected)


def test_importance_weights_per_sequence_literals():
    """Row 0: sqrt(1 * 2), and 1 * 2; row 1: sqrt(4 / 2), and 4 / 2."""
    valid, root = (MASK == 1).tolist(), 2**0.5
    assert_weights(weights_of(level="sequence"), [[root, 0.0, root], [root, root, 0.0]], valid)
    summed = {"level": "sequence", "average": "sum"}
    assert_weights(weights_of(**summed), [[2.0, 0.0, 2.0], [2.0, 2.0, 0.0]], valid)
    high = torch.tensor([1.9, 2.1])
    kept = [[False] * 3, [True, True, False]]
    assert_weights(weights_of(**summed, mode="mask", high=high), [[0.0] * 3, [2.0, 2.0, 0.0]], kept)


def test_importance_weights_per_segment_literals():
    ids = torch.tensor([[0, 0, 1], [0, 0, 0]])
    options = {"level": "segment", "ids": ids, "average": "sum"}
    valid = (MASK == 1).tolist()
    assert_weights(weights_of(**options, num_segments=2), [[1.0, 0.0, 2.0], [2.0, 2.0, 0.0]], valid)
    # Tokens of segments from num_segments on are masked.
    kept = [[True, False, False], [True, True, False]]
    assert_weights(weights_of(**options, num_segments=1), [[1.0, 0.0, 0.0], [2.0, 2.0, 0.0]], kept)


def test_importance_weights_of_infinite_ratios():
    """A ratio that overflows is clipped, or rejected with the weight 0, which is safe to multiply."""
    logprobs = torch.tensor([[200.0, 0.0]])
    weights, _ = segkernel.importance_weights(logprobs, torch.zeros(1, 2), high=2.0)
    assert weights.tolist() == [[2.0, 1.0]]
    weights, keep = segkernel.importance_weights(logprobs, torch.zeros(1, 2), high=2.0, mode="mask")
    assert (weights.tolist(), keep.tolist()) == ([[0.0, 1.0]], [[False, True]])


def test_importance_weights_of_nan_are_rejected_or_stay_nan():
    for level in ("token", "sequence"):
        options = {"level": level, "high": 2.0}
        weights, keep = segkernel.importance_weights(torch.full((1, 1), NAN), torch.zeros(1, 1), mode="mask", **options)
        assert (weights.tolist(), keep.tolist()) == ([[0.0]], [[False]])
        weights, keep = segkernel.importance_weights(torch.full((1, 1), NAN), torch.zeros(1, 1), **options)
        assert weights.isnan().all()
        assert keep.all()


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_importance_weights_equal_the_reference(dtype: torch.dtype):
    batch = random_batch(65)
    B = len(batch.lengths)
    ids = segkernel.segment_by_mask(batch.mask & (torch.arange(65) % 7 > 0))[0]
    logprobs, rollout = (batch.poison(-torch.rand(B, 65)) for _ in range(2))
    logprobs = logprobs.to(dtype)
    bounds = {"low": torch.linspace(0.5, 0.9, B), "high": 1.5}
    packed = {"cu_seqlens": batch.cu_seqlens}
    for options in (
        {},
        {**bounds, "mode": "mask"},
        {**bounds, "level": "sequence"},
        {"low": 0.8, "level": "sequence", "mode": "mask", "average": "sum"},
        {**bounds, "level": "segment", "ids": ids, "num_segments": 9},
        {"high": 1.2, "level": "segment", "ids": ids, "num_segments": 3, "mode": "mask"},
    ):
        with unchanged(logprobs, rollout, batch.mask, ids):
            actual = segkernel.importance_weights(logprobs, rollout, batch.mask, **options)
        expected = reference.importance_weights(logprobs, rollout, batch.mask, **options)
        assert_near(actual, expected, rtol=1e-5, atol=1e-6)
        if "ids" in options:
            options["ids"] = batch.pack(ids)
        of_packed = segkernel.importance_weights(
            batch.pack(logprobs), batch.pack(rollout), batch.pack(batch.mask), **options, **packed
        )
        assert_identical(of_packed, tuple(map(batch.pack, actual)))


def test_importance_weights_bad_arguments_raise():
    x, ids = torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.int32)
    for error, message, change in (
        (TypeError, "rollout_logprobs: expected a floating-point tensor, got int32 [2, 3]", {"rollout_logprobs": ids}),
        (
            ValueError,
            "rollout_logprobs: expected [2, 3] like logprobs, got float32 [2, 2]",
            {"rollout_logprobs": x[:, 1:]},
        ),
        (ValueError, "level: expected one of 'token', 'segment', 'sequence', got 'turn'", {"level": "turn"}),
        (ValueError, "average: expected one of 'mean', 'sum', got 'max'", {"average": "max"}),
        (ValueError, "mode: expected one of 'clip', 'mask', got 'drop'", {"mode": "drop"}),
        (ValueError, 'low: expected low, high or both with mode="mask", got neither', {"mode": "mask"}),
        (ValueError, "low: expected low <= high, got low = 2.0, high = 1.0", {"low": 2.0, "high": 1.0}),
        (ValueError, "high: expected a number or a tensor [2]", {"high": torch.ones(3)}),
        (ValueError, "ids: expected None with level='token', got int32 [2, 3]", {"ids": ids}),
        (ValueError, "num_segments: expected None with level='sequence'", {"level": "sequence", "num_segments": 2}),
        (ValueError, "ids: expected a value with level='segment', got NoneType", {"level": "segment"}),
        (ValueError, "num_segments: expected a value with level='segment'", {"level": "segment", "ids": ids}),
        (ValueError, "num_segments: expected >= 0", {"level": "segment", "ids": ids, "num_segments": -1}),
        (ValueError, "ids: expected [2, 3] like", {"level": "segment", "ids": ids[:, 1:], "num_segments": 1}),
    ):
        with pytest.raises(error, match="^" + re.escape(message)):
            segkernel.importance_weights(**{"logprobs": x, "rollout_logprobs": x, **change})
