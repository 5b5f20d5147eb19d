"""NumPy functions against hand-written literals and, bit for bit, against the torch operators."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import segkernel
import segkernel.numpy as sk
from tests.helpers import LENGTHS, assert_identical, random_batch, random_scores

DTYPES = {np.float64: torch.float64, np.float32: torch.float32, np.float16: torch.float16}
REWARDS = np.array([[0.75, 0.5, 0.0, -0.75, -1.0], [0.0, 0.0, 9.0, 0.25, 0.75]], np.float32)
MASK = np.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1]])


def assert_same_bits(actual: Any, expected: Any) -> None:
    if isinstance(actual, tuple):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            assert_same_bits(a, e)
    elif actual is None:
        assert expected is None
    else:
        assert actual.dtype == expected.numpy().dtype
        assert_identical(torch.from_numpy(actual), expected)


def test_numpy_functions_literals():
    assert sk.detect_pivots(REWARDS, MASK, threshold=0.25).tolist() == [
        [True, False, True, True, False],
        [False, True, False, False, True],
    ]
    assert sk.hysteresis(REWARDS, MASK, low=-0.25, high=0.25).tolist() == [[1, 1, 1, -1, -1], [0, 0, 0, 0, 1]]
    segments = sk.segment(REWARDS, MASK, delta=0.25, sequence_sign=np.array([-2, 1]))
    assert segments.ids.tolist() == [[0, 0, 0, 1, 1], [-1, 0, -1, 0, 1]]
    assert segments.counts.tolist() == [2, 2]
    assert segments.lengths.tolist() == [[3, 2, 0, 0, 0], [2, 1, 0, 0, 0]]
    assert segments.rewards[:, :2].tolist() == [[np.float32(1.25 / 3), -0.875], [0.125, 0.75]]
    assert segments.signs.tolist() == [[1, -1, 0, 0, 0], [0, 1, 0, 0, 0]]
    assert segments.mask.tolist() == [[False, False, False, True, True], [False, False, False, False, True]]
    assert sk.redistribute(REWARDS, MASK, initial=0.25, mix=0.5, sequence_rewards=np.array([4, 8])).tolist() == [
        [0.25, -0.125, -0.25, -0.375, -0.125 + 2],
        [0, -0.125, 0, 0.125, 0.25 + 4],
    ]
    ids, counts = sk.segment_by_entropy(
        np.array([0.0, 2.0, 2.0, 2.0]), threshold=1.0, min_length=2, offsets=np.array([0, 4])
    )
    assert (ids.tolist(), counts.tolist()) == ([0, 0, 1, 1], [2])
    assert sk.select_tokens(REWARDS, MASK, count=2).tolist() == [
        [True, True, False, False, False],
        [False, False, False, True, True],
    ]
    assert sk.select_tokens(REWARDS[0], fraction=0.2, largest=False, offsets=np.array([0, 3, 5])).tolist() == [
        False, False, True, False, True
    ]  # fmt: skip
    assert sk.discounted_sum(REWARDS, MASK, discount=0.5).tolist() == [
        [0.75 + 0.25 - 0.09375 - 0.0625, 0.5 - 0.1875 - 0.125, -0.375 - 0.25, -0.75 - 0.5, -1.0],
        [0, 0.3125, 0, 0.625, 0.75],
    ]
    runs, counts = sk.segment_by_mask(np.array([0.5, 0, 0, 2, 1, 0]), offsets=np.array([0, 1, 1, 6]))
    assert (runs.tolist(), counts.tolist()) == ([0, -1, -1, 0, 0, -1], [1, 0, 1])
    advantages, returns = sk.gae(
        np.array([[1.0, 9.0, 2.0]]), np.array([[0.5, 9.0, 1.0]]), np.array([[1, 0, 1]]), lam=0.5
    )
    assert (advantages.tolist(), returns.tolist()) == ([[2.0, 0.0, 1.0]], [[2.5, 0.0, 2.0]])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", LENGTHS)
def test_numpy_functions_return_the_bits_of_torch(T: int, dtype: type, packed: bool) -> None:
    batch = random_batch(T)
    rows = len(batch.mask)
    scores = batch.poison(random_scores(rows, T, dtype=DTYPES[dtype]))
    values = batch.poison(random_scores(rows, T, dtype=DTYPES[dtype]))
    mask = batch.mask
    torch_rows, numpy_rows = {}, {}
    if packed:
        scores, values, mask = batch.pack(scores), batch.pack(values), batch.pack(mask)
        torch_rows, numpy_rows = {"cu_seqlens": batch.cu_seqlens}, {"offsets": batch.cu_seqlens.numpy()}
    one_per_row = torch.linspace(0.1, 1.0, rows)
    calls: list[tuple[str, dict[str, Any]]] = [
        ("detect_pivots", {"threshold": one_per_row}),
        ("hysteresis", {"low": -0.5, "high": one_per_row, "initial": torch.arange(rows) % 3 - 1}),
        ("segment", {"pivot_threshold": 1.0, "delta": one_per_row, "baseline": 0.1, "sequence_sign": -1}),
        ("segment_by_entropy", {"threshold": one_per_row, "min_length": 3}),
        ("select_tokens", {"fraction": one_per_row, "rounding": "floor"}),
        ("redistribute", {"initial": one_per_row, "sequence_rewards": one_per_row, "mix": 0.25}),
        ("gae", {"gamma": one_per_row, "lam": 0.9}),
        ("gae", {"lam": 0.9, "value_lam": one_per_row, "holes": "decay"}),
        ("discounted_sum", {"discount": one_per_row}),
    ]
    assert_same_bits(sk.segment_by_mask(mask.numpy(), **numpy_rows), segkernel.segment_by_mask(mask, **torch_rows))
    for name, options in calls:
        tokens = (scores, values) if name == "gae" else (scores,)
        expected = getattr(segkernel, name)(*tokens, mask, **options, **torch_rows)
        as_numpy = {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in options.items()}
        actual = getattr(sk, name)(*(token.numpy() for token in tokens), mask.numpy(), **as_numpy, **numpy_rows)
        assert_same_bits(actual, expected)


def test_numpy_segment_with_max_segments_equals_torch():
    scores = random_scores(4, 40)
    options = {"delta": 0.5, "max_segments": 3, "sequence_sign": 1.0, "reduce": "max"}
    assert_same_bits(sk.segment(scores.numpy(), **options), segkernel.segment(scores, **options))


def test_numpy_select_tokens_of_the_whole_batch_equals_torch():
    scores = random_scores(4, 40)
    for options in ({"count": 7}, {"fraction": 0.3, "largest": False}, {"count": torch.tensor(3)}):
        as_numpy = {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in options.items()}
        assert_same_bits(
            sk.select_tokens(scores.numpy(), scope="batch", **as_numpy),
            segkernel.select_tokens(scores, scope="batch", **options),
        )
    counts = torch.tensor([0, 50, 3, 1], dtype=torch.int16)
    expected = segkernel.select_tokens(scores, count=counts)
    assert_same_bits(sk.select_tokens(scores.numpy(), count=counts.numpy()), expected)


def test_numpy_hysteresis_of_strided_input_equals_torch():
    wide = random_scores(6, 20)
    expected = segkernel.hysteresis(wide[::2, 1::3], low=-0.5, high=0.5)
    assert_same_bits(sk.hysteresis(wide.numpy()[::2, 1::3], low=-0.5, high=0.5), expected)


def test_numpy_segment_of_ml_dtypes_bfloat16_equals_torch():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="NumPy has bfloat16 only with ml_dtypes")
    scores = random_scores(3, 30, dtype=torch.bfloat16)
    expected = segkernel.segment(scores, delta=0.5)
    assert_same_bits(sk.segment(scores.view(torch.uint16).numpy().view(ml_dtypes.bfloat16), delta=0.5), expected)


def test_import_of_segkernel_numpy_imports_no_torch():
    code = (
        "import json, sys, segkernel.numpy; print(json.dumps(sorted(m for m in sys.modules if m.startswith('torch'))))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert json.loads(printed) == []


def lets_other_threads_run(call: Callable[[], object]) -> bool:
    """Whether any of many calls of `call` lets a waiting thread run.

    With an endless switch interval a thread gets the GIL only from one that releases it.
    """
    go, ran = threading.Event(), threading.Event()
    waiting = threading.Thread(target=lambda: [step() for step in (go.wait, ran.set)])
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e6)
    try:
        waiting.start()
        go.set()
        for _ in range(1000):
            call()
            if ran.is_set():
                return True
        return False
    finally:
        sys.setswitchinterval(before)
        waiting.join()


def test_segment_releases_the_gil() -> None:
    rewards = np.random.default_rng(0).standard_normal((64, 1 << 14)).astype(np.float32)
    assert lets_other_threads_run(lambda: sk.segment(rewards, pivot_threshold=0.5, delta=0.5))
    assert not lets_other_threads_run(lambda: sum(range(1000)))


def test_masked_arrays_and_foreign_byte_order_are_refused() -> None:
    for rewards, given in (
        (np.ma.masked_array(REWARDS, MASK == 0), "masked float32 [2, 5]"),
        (REWARDS.astype(">f4"), ">f4 [2, 5]"),
    ):
        with pytest.raises(TypeError, match=re.escape(f"rewards: expected a floating-point array, got {given}")):
            sk.detect_pivots(rewards, threshold=1.0)
