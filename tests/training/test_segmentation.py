"""Preparation of token rewards before they are cut: smoothing, units, baselines; and debouncing of the states."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby, product
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from torch import Tensor

import segkernel
from segkernel.training import ASRDPOConfig, ASRDPOTrainer, ASRPPOConfig
from segkernel.training.segmentation.debounce import debounce
from segkernel.training.segmentation.options import SegmentOptions
from segkernel.training.segmentation.rows import TokenRows
from segkernel.training.segmentation.smoothing import smooth
from segkernel.training.segmentation.thresholds import Thresholds
from segkernel.training.segmentation.units import threshold_unit
from tests.ops.plain_floats import debounced, smoothed
from tests.training.trainer_helpers import QUICK_PAIRS, tiny_lm


def packed(rows: Sequence[Sequence[float]], dtype: torch.dtype = torch.float32) -> TokenRows:
    lengths = torch.tensor([0, *(len(row) for row in rows)])
    return TokenRows(torch.tensor([value for row in rows for value in row], dtype=dtype), lengths.cumsum(0))


def unpacked(values: Tensor, rows: list[list[Any]]) -> list[list[Any]]:
    return [part.tolist() for part in values.split([len(row) for row in rows])]


# --- smoothing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (1, [0.0, 3.0, 6.0, 9.0, 3.0]),
        (2, [0.0, 1.5, 4.5, 7.5, 6.0]),  # the token before and the token itself
        (3, [1.5, 3.0, 6.0, 6.0, 6.0]),
        (99, [4.2] * 5),
    ],
)
def test_smoothing_literals(window: int, expected: list[float]) -> None:
    assert smooth(packed([[0, 3, 6, 9, 3]]), window).values.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("window", [1, 2, 3, 5, 8])
def test_smoothing_stays_within_a_response_packed_and_padded(window: int) -> None:
    torch.manual_seed(0)
    rows = [torch.randn(length).tolist() for length in (1, 2, 0, 7, 40, 3)]
    expected = [smoothed(row, window) for row in rows]
    found = unpacked(smooth(packed(rows), window).values, rows)
    for left, right in zip(found, expected, strict=True):
        assert left == pytest.approx(right, abs=1e-6)
    # The other rows of a batch change no bit, not even with NaN.
    assert smooth(packed([rows[3]]), window).values.tolist() == found[3]
    poisoned = [[math.nan], rows[3], [math.inf] * 9]
    assert unpacked(smooth(packed(poisoned), window).values, poisoned)[1] == found[3]
    # Prompts and padding are poisoned.
    padded, mask = torch.full((len(rows), 50), math.nan), torch.zeros(len(rows), 50, dtype=torch.bool)
    for b, row in enumerate(rows):
        padded[b, b : b + len(row)], mask[b, b : b + len(row)] = torch.tensor(row), True
    assert torch.equal(smooth(TokenRows.of_padded(padded, mask), window).values, smooth(packed(rows), window).values)


def test_smoothed_differences_are_differences_over_the_window() -> None:
    torch.manual_seed(0)
    scores = torch.randn(1, 20, dtype=torch.float64)
    differences = segkernel.redistribute(scores)
    found = smooth(TokenRows(differences[0], torch.tensor([0, 20])), 5).values
    # (s[t + 2] - s[t - 3]) / 5
    torch.testing.assert_close(found[3:-2], (scores[0, 5:] - scores[0, :-5]) / 5)


# --- debouncing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "minimum", "expected"),
    [
        ([1, 1, -1, 1, 1], 2, [1, 1, 1, 1, 1]),
        ([1, 1, 1, -1, 1, -1, -1, -1], 2, [1, 1, 1, 1, 1, -1, -1, -1]),
        ([0, -1, -1, 1], 2, [-1, -1, -1, -1]),  # the first run takes the state after it
        ([1, -1, 1], 2, [0, 0, 0]),  # no state lasts
        ([1, 1], 5, [1, 1]),  # the whole response
        ([1, 1, -1, -1, 1, 1, 1], 3, [1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_debounce_literals(states: list[int], minimum: int, expected: list[int]) -> None:
    assert debounce(packed([states], torch.int8), minimum).tolist() == expected


@pytest.mark.parametrize("minimum", [1, 2, 3, 5])
def test_debounce_matches_its_definition_on_all_short_rows(minimum: int) -> None:
    rows = [list(row) for length in range(7) for row in product([-1, 0, 1], repeat=length)]
    found = unpacked(debounce(packed(rows, torch.int8), minimum), rows)
    assert found == [debounced(row, minimum) for row in rows]
    for row in found:
        assert all(len(list(run)) >= min(minimum, len(row)) for _, run in groupby(row))


@pytest.mark.parametrize("reduce", ["mean", "sum", "last", "max", "min"])
def test_segments_of_a_minimum_length_are_those_of_segment_on_debounced_states(reduce: Any) -> None:
    # States at +-1: + + - + + | - - - | + (neutral, holds) - ; and one token.
    rows = [[2.0, 0.5, -3.0, 4.0, 1.5, -2.0, -2.0, -4.0, 3.0, 0.0, -9.0], [-2.0]]
    thresholds = Thresholds(0.0, 0.0, 1.0, None, reduce=reduce, min_segment_length=2)
    rewards = packed(rows)
    segments = thresholds.segment(rewards, torch.zeros(2), torch.tensor([1.0, -1.0]))
    assert segments.ids.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 0]
    assert segments.counts.tolist() == [3, 1]
    assert segments.lengths.tolist() == [5, 3, 3] + [0] * 8 + [1]
    assert segments.signs.tolist() == [1, -1, 1] + [0] * 8 + [-1]
    assert segments.mask.tolist() == [True] * 5 + [False] * 3 + [True] * 4
    reduced = {"mean": [1, -8 / 3, -2], "sum": [5, -8, -6], "last": [1.5, -4, -9], "max": [4, -2, 3]}
    expected = reduced.get(reduce, [-3, -4, -9])
    assert segments.rewards.tolist() == pytest.approx([*expected, *[0] * 8, -2])
    # Without a minimum, the trigger as it is.
    plain = Thresholds(0.0, 0.0, 1.0, None, reduce=reduce).segment(rewards, torch.zeros(2), torch.tensor([1.0, -1.0]))
    assert plain.counts.tolist() == [6, 1]


# --- units and baselines ---------------------------------------------------------------------------------------------


def test_noise_of_differences_is_the_median_distance_from_the_median() -> None:
    # Median 1; distances 1 0 1 2 99 0, their median 1: the reward that stands out does not count.
    rows = packed([[0.0, 1.0, 2.0], [3.0, 100.0, 1.0]])
    options = SegmentOptions(threshold_unit="noise")
    values = sorted([0.0, 1.0, 2.0, 3.0, 100.0, 1.0])
    expected = 1.4826 * median(abs(value - median(values)) for value in values)
    assert threshold_unit(rows, options) == pytest.approx(expected)


@pytest.mark.parametrize("window", [1, 4])
def test_noise_of_prefix_scores_is_that_of_drifting_scores(window: int) -> None:
    """Independent noise of deviation 0.5, averaged over the window, on scores that rise from 0 to 100."""
    torch.manual_seed(0)
    scores = torch.linspace(0, 100, 20_000) + 0.5 * torch.randn(20_000)
    rows = smooth(TokenRows(scores, torch.tensor([0, 1, 10_000, 20_000])), window)
    options = SegmentOptions(threshold_unit="noise", token_rewards="prefix", smoothing=window)
    assert threshold_unit(rows, options) == pytest.approx(0.5 / math.sqrt(window), rel=0.05)


def test_noise_of_prefix_scores_reads_no_step_between_responses() -> None:
    options = SegmentOptions(threshold_unit="noise", token_rewards="prefix")
    # Steps 1, 3, 1 within the responses: median 1, distances 0 2 0.
    assert threshold_unit(packed([[0.0, 1.0, 4.0], [900.0], [50.0, 51.0]]), options) == pytest.approx(0, abs=1e-2)
    with pytest.raises(ValueError, match="threshold_unit: expected responses of more than 1 tokens for `noise`"):
        threshold_unit(packed([[0.0], [900.0]]), options)


@pytest.mark.parametrize(
    ("baseline", "shift", "expected"),
    [
        ("mean", 0.0, [24.5 / 8] * 3),
        ("median", 0.0, [2.0] * 3),
        ("0.5", 0.25, [0.75] * 3),
        ("sequence", 0.0, [1.5, 9.0, 2.5]),
        ("sequence", -2.0, [-0.5, 7.0, 0.5]),
        ("prompt", 0.0, [4.0, 4.0, 2.5]),  # (1 + 2 + 9) / 3
    ],
)
def test_baseline_literals(baseline: str, shift: float, expected: list[float]) -> None:
    rows = packed([[1.0, 2.0], [9.0], [2.0, 3.0, 2.0, 2.0, 3.5]])
    options = SegmentOptions(baseline=baseline, baseline_shift=shift, threshold_unit="reward")
    found = Thresholds.fit(rows, options).baselines(rows, prompts=torch.tensor([7, 7, 3]))
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "zone"),
    [
        ({}, (2.5, 3.5)),  # 2 of 10 values are below 2.5, 3 below 3.5
        ({"baseline": 0.5, "delta": 0.3}, (2.5, 8.5)),
        ({"baseline": 0.5, "delta": 0.3, "baseline_shift": 0.2}, (4.5, 9.5)),  # at 1 the last gap
        ({"baseline": 0.8, "delta": 0.0}, (8.5, 8.5)),
    ],
)
def test_quantile_zone_literals(options: dict[str, float], zone: tuple[float, float]) -> None:
    rows = packed([[4.0, 2.0, 9.0], [10.0, 1.0, 3.0, 8.0, 7.0, 5.0, 6.0]])
    fitted = Thresholds.fit(rows, SegmentOptions(**options))
    assert fitted.delta is not None
    assert not isinstance(fitted.baseline, str)
    assert (fitted.baseline - fitted.delta, fitted.baseline + fitted.delta) == pytest.approx(zone)
    assert fitted.shift == 0


@pytest.mark.parametrize("bad", [1, 6])
def test_quantile_zone_divides_tokens_of_two_rewards(bad: int) -> None:
    """Both quantiles can be the same reward, whose tokens have a sign nevertheless."""
    rows = packed([[-1.0] * bad + [1.0] * (10 - bad)])
    fitted = Thresholds.fit(rows, SegmentOptions())
    assert (fitted.baseline, fitted.delta) == (0.0, 0.0)
    segments = fitted.segment(rows, torch.zeros(1), torch.ones(1))
    assert segments.mask.tolist() == [False] * bad + [True] * (10 - bad)


def test_quantile_zone_of_equal_rewards_is_neutral() -> None:
    values = [0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2]  # equal up to rounding
    rows = TokenRows(torch.tensor(values, dtype=torch.float64), torch.tensor([0, 4]))
    fitted = Thresholds.fit(rows, SegmentOptions())
    baselines = fitted.baselines(rows, torch.tensor([0]))
    assert fitted.segment(rows, baselines, torch.ones(1)).signs.tolist() == [0, 0, 0, 0]


def test_pivot_threshold_is_a_quantile_of_the_steps_within_responses() -> None:
    rows = packed([[0.0, 1.0, 3.0], [100.0, 103.0, 107.0]])  # steps 1 2 3 4, none between the responses
    fitted = Thresholds.fit(rows, SegmentOptions(pivot_threshold=0.75))
    assert (fitted.pivot_threshold, fitted.delta) == (3.5, None)
    level = Thresholds.fit(packed([[2.0, 2.0], [2.0]]), SegmentOptions(pivot_threshold=0.75))
    assert level.pivot_threshold is not None
    assert level.pivot_threshold > 0


def test_baseline_shift_is_in_threshold_units() -> None:
    rows = packed([[0.0, 2.0, 4.0]])  # mean 2, deviation 2
    fitted = Thresholds.fit(rows, SegmentOptions(delta=0.5, baseline_shift=0.25, threshold_unit="std"))
    assert (fitted.baseline, fitted.shift, fitted.delta) == pytest.approx((2.0, 0.5, 1.0))
    assert fitted.baselines(rows, torch.tensor([0])).tolist() == pytest.approx([2.5])


# --- tokens that end a response ---------------------------------------------------------------------------------------


def with_ends(rows: list[list[float]], ended: list[bool]) -> TokenRows:
    return replace(packed(rows), ended=torch.tensor(ended))


@pytest.mark.parametrize("end", [-99.0, 0.0, 99.0])
def test_end_of_a_response_belongs_to_the_segment_before_and_is_never_suppressed(end: float) -> None:
    rows = with_ends([[2.0, end], [-2.0, end], [2.0, end], [-2.0, end], [-2.0], [end]], [True] * 4 + [False, True])
    signs = torch.tensor([1, 1, -1, -1, -1, 1])
    segments = Thresholds(0.0, 0.0, 1.0, None).segment(rows, torch.zeros(6, dtype=torch.float64), signs)
    assert segments.counts.tolist() == [1] * 6
    assert segments.mask is not None
    assert segments.mask.tolist() == [True, True, False, False, False, False, True, False, True, False]
    # The sign of a segment between pivots is that of its mean, in which the end counts like the token before it.
    pivots = Thresholds(0.0, 0.0, None, 9.0).segment(rows, torch.zeros(6, dtype=torch.float64), signs)
    assert pivots.counts.tolist() == [1] * 6
    assert pivots.rewards[rows.cu_seqlens[:-1]].tolist() == [2.0, -2.0, 2.0, -2.0, -2.0, 0.0]


@pytest.mark.parametrize("options", [{}, {"threshold_unit": "std"}, {"threshold_unit": "noise"}])
def test_thresholds_do_not_depend_on_the_rewards_of_ends(options: dict[str, Any]) -> None:
    values = [[1.0, 4.0, 2.0], [7.0, 3.0]]
    bare = Thresholds.fit(packed(values), SegmentOptions(**options))
    ended = with_ends([[*values[0], -99.0], [*values[1], 99.0]], [True, True])
    assert Thresholds.fit(ended, SegmentOptions(**options)) == bare
    per_response = SegmentOptions(threshold_unit="std", baseline="sequence")
    found = Thresholds.fit(ended, per_response).baselines(ended, torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([7 / 3, 5.0])


def test_smoothing_does_not_read_the_rewards_of_ends() -> None:
    rows = with_ends([[1.0, 4.0, 99.0], [2.0, 6.0]], [True, False])
    found = smooth(rows, 3)
    assert found.values.tolist()[3:] == [4.0, 4.0]
    assert found.values.tolist()[:2] == [2.5, 2.5]
    assert found.ended is rows.ended


# --- in the trainers -------------------------------------------------------------------------------------------------


def test_asr_dpo_masks_follow_smoothing_baseline_and_minimum_length(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        {
            "prompt_ids": [5, 6],
            "chosen_ids": [7, 8, 9, 10, 11, 12],
            "rejected_ids": [12, 13, 14],
            "chosen_token_rewards": [6.0, 0.0, 6.0, 0.0, 0.0, 0.0],
            "rejected_token_rewards": [0.0, 0.0, 9.0],
        },
        {
            "prompt_ids": [5],
            "chosen_ids": [7],
            "rejected_ids": [8, 9],
            "chosen_token_rewards": [2.0],
            "rejected_token_rewards": [1.0, 1.0],
        },
    ]

    def prepared(**options: Any) -> Any:
        trigger = {"token_rewards": "column", "threshold_unit": "reward", "delta": 0.5}
        config = ASRDPOConfig(str(tmp_path), **trigger, **options, **QUICK_PAIRS)
        return ASRDPOTrainer(tiny_lm(tokenizer), config, rows, rows[:1], tokenizer)

    trainer = prepared(smoothing=3, baseline="sequence", min_segment_length=2)
    first, second = trainer.train_dataset
    # Means of three: 3 4 2 2 0 0 about 11 / 6, 0 3 4.5 about 2.5; what is not within 0.5 of it: + + . . - -, - . +.
    assert first["chosen_token_rewards"] == pytest.approx([3, 4, 2, 2, 0, 0])
    assert first["rejected_token_rewards"] == pytest.approx([0, 3, 4.5])
    assert first["baseline"] == pytest.approx([11 / 6, 2.5])
    # Held states: + + + + - - and - - +. The last + is shorter than the minimum.
    assert first["chosen_mask"] == [True, True, True, True, False, False]
    assert first["rejected_mask"] == [True, True, True]
    assert first["segments"] == [2, 1]
    assert second["baseline"] == [2.0, 1.0]
    assert second["chosen_mask"] == [False]
    # Held-out pairs have baselines of their own.
    assert trainer.eval_dataset[0] == first
    # Shown in the report as they are trained on.
    chosen, rejected = trainer.report_examples()[:2]
    assert chosen.kept == first["chosen_mask"]
    assert (chosen.spans(), rejected.spans()) == ([(0, 4, 1), (4, 6, -1)], [(0, 3, -1)])
    assert (chosen.baseline, chosen.low) == pytest.approx((11 / 6, 4 / 3))

    # Over the pair: (12 + 9) / 9 and 4 / 3.
    assert [row["baseline"] for row in prepared(baseline="prompt").train_dataset] == [
        pytest.approx([21 / 9] * 2),
        pytest.approx([4 / 3] * 2),
    ]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"smoothing": 0}, "smoothing: expected >= 1, got 0"),
        ({"min_segment_length": 0}, "min_segment_length: expected >= 1, got 0"),
        ({"baseline_shift": math.inf}, "baseline_shift: expected a finite number, got inf"),
        (
            {"min_segment_length": 2, "pivot_threshold": 1.0},
            "min_segment_length: expected 1 with pivot_threshold, since every pivot opens a segment, got 2",
        ),
    ],
)
def test_segment_options_refuse(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SegmentOptions(**option)


def test_asr_ppo_refuses_a_baseline_per_prompt() -> None:
    with pytest.raises(ValueError, match=r"baseline: expected `mean`, .*, since a rollout has one response per prompt"):
        ASRPPOConfig(baseline="prompt", threshold_unit="std", use_cpu=True)
