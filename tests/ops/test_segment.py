from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import segkernel
from segkernel import reference
from segkernel.types import Segments
from tests.helpers import EVERY_DTYPE, LENGTHS, assert_identical, assert_near, random_batch, random_scores

NAN, INF = float("nan"), float("inf")

# Steps 0.25, 2, 0.5, 2.5, 0.5, 2: pivots above 1 at 0, 2, 4, 6. Trigger at +-0.5: 0 0 + + - - +.
REWARDS = torch.tensor([[0.0, 0.25, 2.25, 1.75, -0.75, -1.25, 0.75]])


def test_segment_pivots_literals():
    out = segkernel.segment(REWARDS, pivot_threshold=1.0)
    assert isinstance(out, Segments)
    assert out.ids.tolist() == [[0, 0, 1, 1, 2, 2, 3]]
    assert out.counts.tolist() == [4]
    assert out.lengths.tolist() == [[2, 2, 2, 1, 0, 0, 0]]
    assert out.rewards.tolist() == [[0.125, 2.0, -1.0, 0.75, 0.0, 0.0, 0.0]]
    assert out.signs.tolist() == [[1, 1, -1, 1, 0, 0, 0]]  # the reward's, there is no trigger
    assert out.mask is None
    assert [field.dtype for field in out[:5]] == [torch.int32] * 3 + [torch.float32, torch.int8]


def test_segment_sign_is_relative_to_the_baseline():
    out = segkernel.segment(REWARDS, pivot_threshold=1.0, baseline=0.125)
    assert out.signs.tolist() == [[0, 1, -1, 1, 0, 0, 0]]
    out = segkernel.segment(REWARDS.repeat(2, 1), pivot_threshold=1.0, baseline=torch.tensor([2.0, -1.0]))
    assert out.signs.tolist() == [[-1, 0, -1, -1, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0]]


def test_segment_trigger_literals():
    out = segkernel.segment(REWARDS, delta=0.5)
    assert out.ids.tolist() == [[0, 0, 1, 1, 2, 2, 3]]
    assert out.signs.tolist() == [[0, 1, -1, 1, 0, 0, 0]]
    # Started in the reinforced state, the first four tokens share it.
    out = segkernel.segment(REWARDS, delta=0.5, initial=1)
    assert out.ids.tolist() == [[0, 0, 0, 0, 1, 1, 2]]
    assert out.rewards.tolist() == [[1.0625, -1.0, 0.75, 0.0, 0.0, 0.0, 0.0]]
    assert out.signs.tolist() == [[1, -1, 1, 0, 0, 0, 0]]
    # Around a baseline of 1 the band is 0.5 to 1.5: - - + + - - -.
    assert segkernel.segment(REWARDS, delta=0.5, baseline=1.0).signs.tolist() == [[-1, 1, -1, 0, 0, 0, 0]]


def test_segment_dead_zone_literals():
    rewards = torch.tensor([[1.0, 0.0, 0.0, -1.0, 0.0]])
    assert segkernel.segment(rewards, delta=0.5).ids.tolist() == [[0, 0, 0, 1, 1]]
    out = segkernel.segment(rewards, delta=0.5, hold=False)
    assert out.ids.tolist() == [[0, 1, 1, 2, 3]]
    assert out.signs.tolist() == [[1, 0, -1, 0, 0]]


def test_segment_pivots_and_trigger_literals():
    # Steps 2.25, 0.75, 2, 1. Around the band 0 to 0.5 the states are + + + - -.
    rewards = torch.tensor([[3.0, 0.75, 0.0, -2.0, -1.0]])
    options = {"delta": 0.25, "baseline": 0.25}
    assert segkernel.segment(rewards, **options).ids.tolist() == [[0, 0, 0, 1, 1]]
    assert segkernel.segment(rewards, pivot_threshold=1.5, **options).ids.tolist() == [[0, 1, 1, 2, 2]]
    out = segkernel.segment(rewards, pivot_threshold=0.75, **options)
    assert out.ids.tolist() == [[0, 1, 1, 2, 3]]
    assert out.signs.tolist() == [[1, 1, -1, -1, 0]]


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        ("mean", [1.25, -1.5]),
        ("sum", [3.75, -3.0]),
        ("last", [1.0, -1.0]),
        ("max", [2.0, -1.0]),
        ("min", [0.75, -2.0]),
    ],
)
def test_segment_reductions_literals(reduce, expected):
    rewards = torch.tensor([[NAN, 2.0, 0.75, NAN, 1.0, -2.0, -1.0, NAN]])
    mask = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 0]])
    out = segkernel.segment(rewards, mask, delta=0.5, reduce=reduce)
    assert out.ids.tolist() == [[-1, 0, 0, -1, 0, 1, 1, -1]]
    assert out.lengths.tolist() == [[3, 2, 0, 0, 0, 0, 0, 0]]
    assert out.rewards.tolist() == [[*expected, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("reduce", ["mean", "sum", "last", "max", "min"])
def test_segment_nan_is_no_pivot_and_makes_rewards_nan(reduce):
    out = segkernel.segment(torch.tensor([[1.0, NAN, -1.0, 1.0, NAN]]), pivot_threshold=1.0, reduce=reduce)
    # No step to or from NaN is a pivot. The first segment is 1, NaN, -1; the second 1, NaN.
    assert out.ids.tolist() == [[0, 0, 0, 1, 1]]
    if reduce == "last":
        assert out.rewards[0, 0] == -1
        assert out.signs.tolist() == [[-1, 0, 0, 0, 0]]
    else:
        assert out.rewards[0, :2].isnan().all()
        assert out.signs.tolist() == [[0, 0, 0, 0, 0]]


def test_segment_loss_mask_literals():
    def kept(sequence_sign, **options):
        return segkernel.segment(REWARDS, delta=0.5, sequence_sign=sequence_sign, **options).mask.int().tolist()

    # Segment signs 0 0 + + - - +.
    assert kept(1.0) == [[0, 0, 1, 1, 0, 0, 1]]
    assert kept(torch.tensor([-0.25])) == [[0, 0, 0, 0, 1, 1, 0]]
    assert kept(1, keep_neutral=True) == [[1, 1, 1, 1, 0, 0, 1]]
    assert kept(-1, keep_neutral=True) == [[1, 1, 0, 0, 1, 1, 0]]
    # Nothing agrees with a sequence that is neither good nor bad; least of all the neutral segments.
    assert kept(0.0) == [[0, 0, 0, 0, 0, 0, 0]]
    assert kept(0.0, keep_neutral=True) == [[1, 1, 0, 0, 0, 0, 0]]
    assert kept(NAN) == [[0, 0, 0, 0, 0, 0, 0]]


def test_segment_loss_mask_is_false_at_masked():
    mask = torch.tensor([[1, 0, 1, 0, 1, 1, 0]])
    out = segkernel.segment(REWARDS, mask, delta=0.5, sequence_sign=1.0, keep_neutral=True)
    assert out.mask.tolist() == [[True, False, True, False, False, False, False]]


def test_segment_max_segments_leaves_out_later_segments():
    full = segkernel.segment(REWARDS, delta=0.5, sequence_sign=1.0)
    out = segkernel.segment(REWARDS, delta=0.5, sequence_sign=1.0, max_segments=2)
    assert out.lengths.tolist() == [[2, 2]]
    assert out.rewards.tolist() == [[0.125, 2.0]]
    assert out.signs.tolist() == [[0, 1]]
    # The tokens of the segments left out are still numbered, counted and masked.
    assert_identical((out.ids, out.counts, out.mask), (full.ids, full.counts, full.mask))
    out = segkernel.segment(REWARDS, delta=0.5, max_segments=10)
    assert out.lengths.tolist() == [[2, 2, 2, 1, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("implementation", [segkernel.segment, reference.segment])
def test_segment_max_segments_zero_means_all(implementation):
    assert implementation(REWARDS, delta=0.5, max_segments=0).lengths.tolist() == [[2, 2, 2, 1, 0, 0, 0]]


def test_segment_packed_literals():
    rewards = torch.tensor([1.0, 1.0, -1.0, 5.0, NAN, -1.0, -1.0, 1.0])
    mask = torch.tensor([1, 1, 1, 1, 0, 1, 1, 1])
    cu_seqlens = torch.tensor([0, 3, 3, 8])
    sign = torch.tensor([1.0, 1.0, -1.0])
    out = segkernel.segment(rewards, mask, delta=0.5, sequence_sign=sign, reduce="sum", cu_seqlens=cu_seqlens)
    assert out.ids.tolist() == [0, 0, 1, 0, -1, 1, 1, 2]
    assert out.counts.tolist() == [2, 0, 3]
    assert out.lengths.tolist() == [2, 1, 0, 1, 2, 1, 0, 0]
    assert out.rewards.tolist() == [2.0, -1.0, 0.0, 5.0, -2.0, 1.0, 0.0, 0.0]
    assert out.signs.tolist() == [1, -1, 0, 1, -1, 1, 0, 0]
    assert out.mask.int().tolist() == [1, 1, 0, 0, 0, 1, 1, 0]


def test_segment_rows_without_tokens_have_no_segments():
    out = segkernel.segment(REWARDS, torch.zeros(1, 7), delta=0.5, sequence_sign=1.0, keep_neutral=True)
    assert out.ids.tolist() == [[-1] * 7]
    assert out.counts.tolist() == [0]
    assert not any(field.any() for field in out[2:])


def assert_segments(actual: Segments, expected: Segments, tolerance: float) -> None:
    """All but the sums are exact; a sum's order of summation is the kernel's own."""
    torch.testing.assert_close(actual.rewards, expected.rewards, rtol=tolerance, atol=tolerance, equal_nan=True)
    assert_identical(actual._replace(rewards=None), expected._replace(rewards=None))


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("T", LENGTHS)
def test_segment_matches_reference(T, dtype):
    batch = random_batch(T)
    B = len(batch.lengths)
    rewards = batch.poison(random_scores(B, T, dtype=dtype))
    baselines, deltas, signs = torch.linspace(-0.5, 0.5, B), torch.linspace(0, 1, B), torch.linspace(-1, 1, B)
    for options in (
        {"pivot_threshold": 0.75, "reduce": "last", "baseline": baselines},
        {"delta": 0.5, "sequence_sign": signs, "initial": torch.arange(B) % 3 - 1, "keep_neutral": True},
        {"delta": deltas, "baseline": baselines, "pivot_threshold": deltas, "reduce": "max", "hold": False},
        {"delta": 0.25, "reduce": "sum", "max_segments": 3, "sequence_sign": signs},
        {"delta": 0.25, "pivot_threshold": 2.0, "reduce": "min", "sequence_sign": -1.0},
    ):
        actual = segkernel.segment(rewards, batch.mask, **options)
        assert_segments(actual, reference.segment(rewards, batch.mask, **options), tolerance=1e-6 + 1e-8 * T)
        options.pop("max_segments", None)
        packed = {"mask": batch.pack(batch.mask), "cu_seqlens": batch.cu_seqlens, **options}
        actual = segkernel.segment(batch.pack(rewards), **packed)
        assert_segments(actual, reference.segment(batch.pack(rewards), **packed), tolerance=1e-6 + 1e-8 * T)


@pytest.mark.parametrize(
    ("T", "reduce"),
    [
        *product([1, 15, 16, 17, 63, 64, 65, 128, 191, 256, 321], ["mean", "sum", "last", "max", "min"]),
        *product([1023, 1024, 1025, 2500], ["mean", "max"]),
    ],
)
def test_segment_rows_without_holes_match_reference(T, reduce):
    """Multiples of 1/4 have exact sums, so that everything is exact; NaN and infinities are among them."""
    rewards = (4 * torch.randn(6, T)).round() / 4
    rewards[1] = (rewards[1] > 1).float()  # long segments
    rewards[2] = 0.5  # one segment, on the threshold
    rewards[3, torch.rand(T) < 0.1] = NAN
    rewards[4, torch.rand(T) < 0.1] = INF
    rewards[4, torch.rand(T) < 0.1] = -INF
    rewards[5] = -1 - rewards[5].abs()  # one state
    for options in (
        {"pivot_threshold": 1.0, "baseline": 0.25, "sequence_sign": 1.0},
        {"delta": 0.5, "initial": torch.tensor([-1, 0, 1] * 2), "sequence_sign": -1.0},
        {"delta": 0.5, "hold": False, "baseline": 0.25, "sequence_sign": 1.0, "keep_neutral": True},
        {"delta": 0.75, "pivot_threshold": 1.75, "sequence_sign": torch.linspace(-1, 1, 6)},
    ):
        actual = segkernel.segment(rewards, reduce=reduce, **options)
        assert_identical(actual, reference.segment(rewards, reduce=reduce, **options))
        assert_identical(segkernel.segment(rewards, torch.ones(6, T), reduce=reduce, **options), actual)
        offsets = torch.arange(7) * T
        packed = segkernel.segment(rewards.view(-1), reduce=reduce, cu_seqlens=offsets, **options)
        assert_identical(packed, Segments(*(out if out.shape == (6,) else out.reshape(-1) for out in actual)))


def long_row(T: int) -> tuple[Tensor, Tensor]:
    """A row longer than a CUDA tile, with dense, sparse, missing and constant stretches."""
    rewards = random_scores(T)
    rewards[T // 3 : T // 2] = 0.125  # a segment much longer than any tile
    mask = torch.rand(T) < 0.9
    mask[T // 2 : 5 * T // 6] = torch.rand(5 * T // 6 - T // 2) < 0.001
    return rewards, mask


@pytest.mark.parametrize("reduce", ["mean", "sum", "last", "max", "min"])
@pytest.mark.parametrize(
    "options", [{"delta": 0.5}, {"pivot_threshold": 0.25}, {"pivot_threshold": 1.5, "delta": 0.25}]
)
def test_segment_long_row_matches_reference_in_any_batch(reduce, options):
    T = 9011
    rewards, mask = long_row(T)
    poisoned = rewards.masked_fill(~mask, NAN)
    options = {**options, "reduce": reduce, "baseline": 0.125, "sequence_sign": 1.0}
    alone = segkernel.segment(poisoned[None], mask[None], **options)
    expected = reference.segment(rewards.double()[None], mask[None], **options)
    assert_near(alone.rewards, expected.rewards, rtol=1e-5, atol=1e-5)
    # Signs of rewards that are on the baseline but for rounding may differ where there is no trigger.
    assert_identical(alone[:3], expected[:3])
    if "delta" in options:
        assert_identical([alone.signs, alone.mask], [expected.signs, expected.mask])
    for B in (3, 6):  # few rows may be shared out otherwise than many
        among_others = segkernel.segment(poisoned.repeat(B, 1), mask.repeat(B, 1), **options)
        assert_identical([field[1] for field in among_others], [field[0] for field in alone])

    # Packed, among others that are empty or short.
    for lengths in ([T], [0, T, 1], [0, 5, T, 0, 0, 1]):
        before = lengths[: lengths.index(T)]
        cu_seqlens = torch.tensor([0, *lengths]).cumsum(0)
        values, valid = torch.full((sum(lengths),), 0.5), torch.ones(sum(lengths), dtype=torch.bool)
        here = slice(sum(before), sum(before) + T)
        values[here], valid[here] = poisoned, mask
        packed = segkernel.segment(values, valid, cu_seqlens=cu_seqlens, **options)
        per_token = [packed.ids, packed.lengths, packed.rewards, packed.signs, packed.mask]
        assert_identical([field[here] for field in per_token], [alone[i][0] for i in (0, 2, 3, 4, 5)])
        assert packed.counts.tolist() == [int(alone.counts) if length == T else min(length, 1) for length in lengths]


@pytest.mark.parametrize("reduce", ["mean", "sum", "last", "max", "min"])
def test_segment_very_long_segments_literals(reduce):
    """Segments much longer than any block or tile; one has all rewards in the neutral zone."""
    T = 140_001
    rewards = torch.zeros(T)
    rewards[::1000] = 0.25
    rewards[70_000:], rewards[139_000] = 0.5, -1.0
    options = {"reduce": reduce, "delta": 0.25, "sequence_sign": 1.0, "initial": -1}
    actual = segkernel.segment(rewards[None], **options)
    assert actual.lengths[0, :4].tolist() == [70_000, 69_000, 1, 1_000]
    assert_identical(actual, reference.segment(rewards[None], **options))


def test_segment_max_segments_of_a_long_row():
    rewards, mask = long_row(5000)
    every = segkernel.segment(rewards[None], mask[None], pivot_threshold=0.5, sequence_sign=1)
    for most in (1, 1023, 1500, 6000):
        some = segkernel.segment(rewards[None], mask[None], pivot_threshold=0.5, sequence_sign=1, max_segments=most)
        assert_identical([some.ids, some.counts, some.mask], [every.ids, every.counts, every.mask])
        for name in ("lengths", "rewards", "signs"):
            field = getattr(every, name)[:, :most]
            assert_identical(getattr(some, name), torch.nn.functional.pad(field, (0, max(0, most - 5000))))


@given(
    tokens=st.lists(st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 1.0, 2.0]), st.booleans()), max_size=50),
    pivot_threshold=st.sampled_from([None, 0.0, 0.5, 1.5]),
    delta=st.sampled_from([0.0, 0.5, 1.0]),
    hold=st.booleans(),
)
def test_segment_fields_are_consistent(tokens, pivot_threshold, delta, hold):
    rewards = torch.tensor([[reward for reward, _ in tokens]])
    mask = torch.tensor([[valid for _, valid in tokens]], dtype=torch.bool)
    out = segkernel.segment(
        rewards, mask, pivot_threshold=pivot_threshold, delta=delta, hold=hold, reduce="sum", sequence_sign=1.0
    )
    n, ids = int(out.counts), out.ids[mask]
    assert (out.ids[~mask] == -1).all()
    assert ids.tolist() == sorted(ids.tolist())
    assert ids.unique().tolist() == list(range(n))
    assert out.lengths[0, :n].tolist() == ids.bincount().tolist()
    assert not out.lengths[0, n:].any()
    assert out.rewards.sum() == rewards[mask].sum()  # all of them multiples of 1/2
    states = segkernel.hysteresis(rewards, mask, low=-delta, high=delta, hold=hold)
    assert_identical(out.signs[0, ids.long()], states[mask])
    assert_identical(out.mask, mask & (states == 1))


def test_segment_parameter_errors(value_checks: None):
    with pytest.raises(ValueError, match=r"pivot_threshold.*delta"):
        segkernel.segment(REWARDS)
    with pytest.raises(ValueError, match=r"delta: expected >= 0, got -0\.5"):
        segkernel.segment(REWARDS, delta=-0.5)
    with pytest.raises(ValueError, match=r"delta.*expected >= 0.*-1"):
        segkernel.segment(REWARDS, delta=torch.tensor([-1.0]))
    with pytest.raises(ValueError, match=r"pivot_threshold: expected >= 0, got -1"):
        segkernel.segment(REWARDS, pivot_threshold=-1)
    with pytest.raises(ValueError, match=r"reduce: expected one of 'mean'.*got 'median'"):
        segkernel.segment(REWARDS, delta=0.5, reduce="median")
    with pytest.raises(ValueError, match=r"max_segments: expected .*got -1"):
        segkernel.segment(REWARDS, delta=0.5, max_segments=-1)
    with pytest.raises(ValueError, match=r"max_segments: expected .*cu_seqlens"):
        segkernel.segment(REWARDS[0], delta=0.5, max_segments=3, cu_seqlens=torch.tensor([0, 7]))
    with pytest.raises(ValueError, match=r"sequence_sign: expected .*\[1\].*\[2\]"):
        segkernel.segment(REWARDS, delta=0.5, sequence_sign=torch.ones(2))
    with pytest.raises(ValueError, match=r"initial: expected -1, 0 or \+1, got 2"):
        segkernel.segment(REWARDS, delta=0.5, initial=2)


@pytest.mark.parametrize("reduce", ["mean", "sum", "last", "max", "min"])
def test_segment_negative_zeros_stay_negative(reduce):
    rewards = torch.full((2, 200), -0.0)
    mask = torch.arange(200).expand(2, 200) % 3 > 0
    for valid in (None, mask):
        out = segkernel.segment(rewards, valid, delta=0.5, reduce=reduce)
        assert out.counts.tolist() == [1, 1]
        assert_identical(out.rewards[:, 0], torch.tensor([-0.0, -0.0]))
