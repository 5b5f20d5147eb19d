"""The NumPy front against hand-written literals and against the torch operators, bit for bit."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import segkernel
import segkernel.numpy as sk
from tests.helpers import LENGTHS, random_batch, random_scores

DTYPES = {np.float64: torch.float64, np.float32: torch.float32, np.float16: torch.float16}
REWARDS = np.array([[0.75, 0.5, 0.0, -0.75, -1.0], [0.0, 0.0, 9.0, 0.25, 0.75]], np.float32)
MASK = np.array([[1, 1, 1, 1, 1], [0, 1, 0, 1, 1]])


def same(actual: object, expected: object) -> None:
    if isinstance(actual, tuple):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            same(a, e)
    elif actual is None:
        assert expected is None
    else:
        assert actual.dtype == expected.numpy().dtype
        np.testing.assert_array_equal(actual, expected.numpy())


def test_literals():
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
    advantages, returns = sk.gae(
        np.array([[1.0, 9.0, 2.0]]), np.array([[0.5, 9.0, 1.0]]), np.array([[1, 0, 1]]), lam=0.5
    )
    assert (advantages.tolist(), returns.tolist()) == ([[2.0, 0.0, 1.0]], [[2.5, 0.0, 2.0]])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", LENGTHS)
def test_same_bits_as_torch(T: int, dtype: type, packed: bool) -> None:
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
    calls = {
        "detect_pivots": {"threshold": one_per_row},
        "hysteresis": {"low": -0.5, "high": one_per_row, "initial": torch.arange(rows) % 3 - 1},
        "segment": {"pivot_threshold": 1.0, "delta": one_per_row, "baseline": 0.1, "sequence_sign": -1},
        "segment_by_entropy": {"threshold": one_per_row, "min_length": 3},
        "redistribute": {"initial": one_per_row, "sequence_rewards": one_per_row, "mix": 0.25},
        "gae": {"gamma": one_per_row, "lam": 0.9},
    }
    for name, options in calls.items():
        tokens = (scores, values) if name == "gae" else (scores,)
        expected = getattr(segkernel, name)(*tokens, mask, **options, **torch_rows)
        as_numpy = {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in options.items()}
        actual = getattr(sk, name)(*(token.numpy() for token in tokens), mask.numpy(), **as_numpy, **numpy_rows)
        same(actual, expected)


def test_fewer_segments_than_tokens():
    scores = random_scores(4, 40)
    options = {"delta": 0.5, "max_segments": 3, "sequence_sign": 1.0, "reduce": "max"}
    same(sk.segment(scores.numpy(), **options), segkernel.segment(scores, **options))


def test_strided_input():
    wide = random_scores(6, 20)
    expected = segkernel.hysteresis(wide[::2, 1::3], low=-0.5, high=0.5)
    same(sk.hysteresis(wide.numpy()[::2, 1::3], low=-0.5, high=0.5), expected)


def test_bfloat16_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes is what gives NumPy a bfloat16")
    scores = random_scores(3, 30, dtype=torch.bfloat16)
    expected = segkernel.segment(scores, delta=0.5)
    same(sk.segment(scores.view(torch.uint16).numpy().view(ml_dtypes.bfloat16), delta=0.5), expected)


def test_import_brings_no_torch():
    code = (
        "import json, sys, segkernel.numpy; print(json.dumps(sorted(m for m in sys.modules if m.startswith('torch'))))"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert json.loads(printed) == []


def test_other_threads_run_meanwhile():
    rewards = np.random.default_rng(0).standard_normal((64, 1 << 16)).astype(np.float32)
    done = threading.Event()

    def scan() -> None:
        sk.segment(rewards, pivot_threshold=0.5, delta=0.5)
        done.set()

    worker = threading.Thread(target=scan)
    turns = 0
    worker.start()
    while not done.is_set():
        turns += 1
    worker.join()
    # Holding the GIL, the scan would let this thread in a few times at most, before and after.
    assert turns > 100


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sk.segment(REWARDS), ValueError, "pivot_threshold, delta or both"),
        (lambda: sk.segment(REWARDS, delta=-0.5), ValueError, "delta: expected >= 0, got -0.5"),
        (lambda: sk.segment(REWARDS, delta=1.0, reduce="median"), ValueError, "reduce: .*'mean'.*got 'median'"),
        (lambda: sk.hysteresis(REWARDS, low=1.0, high=0.0), ValueError, "low: expected low <= high, got low = 1"),
        (lambda: sk.hysteresis(REWARDS, low=0.0, high=1.0, initial=2), ValueError, "initial: .*got 2"),
        (lambda: sk.hysteresis(REWARDS, low=0.0, high=1.0, initial=np.array([0, 256])), ValueError, "initial: "),
        (lambda: sk.detect_pivots(REWARDS, threshold=np.array([1.0])), ValueError, r"threshold: .*\[2\], got .*\[1\]"),
        (
            lambda: sk.detect_pivots(REWARDS, MASK[:, :3], threshold=1.0),
            ValueError,
            r"mask: expected \[2, 5\].*\[2, 3\]",
        ),
        (lambda: sk.detect_pivots(REWARDS[0], threshold=1.0), ValueError, r"rewards: expected \[B, T\].*\[5\]"),
        (lambda: sk.detect_pivots(REWARDS.astype(int), threshold=1.0), TypeError, "rewards: expected .*got int64"),
        (lambda: sk.detect_pivots([[1.0]], threshold=1.0), TypeError, "rewards: expected .*got list"),
        (lambda: sk.detect_pivots(REWARDS, threshold="high"), TypeError, "threshold: .*got str 'high'"),
        (
            lambda: sk.detect_pivots(REWARDS[0], threshold=1.0, offsets=np.array([0, 4, 3, 5])),
            ValueError,
            "offsets: expected non-decreasing offsets, got 4 then 3 at index 2",
        ),
        (
            lambda: sk.detect_pivots(REWARDS[0], threshold=1.0, offsets=np.array([0, 4])),
            ValueError,
            "offsets: expected to end at the number of packed tokens, 5, got 4",
        ),
        (lambda: sk.gae(REWARDS, REWARDS[:1]), ValueError, r"values: expected \[2, 5\].*got float32 \[1, 5\]"),
        (lambda: sk.segment_by_entropy(REWARDS, threshold=1.0, min_length=0), ValueError, "min_length: expected >= 1"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
