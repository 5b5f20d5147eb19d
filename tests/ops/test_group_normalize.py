import re

import pytest
import torch
from torch import Tensor

import segkernel
from segkernel import reference
from tests.helpers import EVERY_DTYPE, assert_identical, assert_near, opcheck, random_scores, unchanged

NAN = float("nan")


def random_groups(B: int, S: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, counts and groups of several sizes; one of equal rewards. Values past the counts are NaN."""
    counts = torch.randint(-1, S + 2, (B,))
    group = torch.randint(-2, 3, (B,)) * 2**40
    values = random_scores(B, S, dtype=dtype)
    values[group == 0] = 0.3
    values[torch.arange(S) >= counts[:, None]] = NAN
    return values, counts, group


def test_group_normalize_literals():
    """Groups -3 and 5, whose rows alternate: the rewards 1, 2, 3 with mean 2 and deviation 1; and 4, 4, 10, 6 with
    mean 6 and deviation sqrt(24 / 3)."""
    values = torch.tensor([[1.0, 2.0], [4.0, 4.0], [3.0, NAN], [10.0, 6.0], [NAN, NAN]])
    counts, group = torch.tensor([2, 2, 1, 2, 0]), torch.tensor([-3, 5, -3, 5, 5])
    centered = [[-1.0, 0.0], [-2.0, -2.0], [1.0, 0.0], [4.0, 0.0], [0.0, 0.0]]
    assert segkernel.group_normalize(values, counts, group, scale=False).tolist() == centered
    scaled = segkernel.group_normalize(values, counts, group, eps=1.0)
    divisor = torch.tensor([2.0, 8**0.5 + 1, 2.0, 8**0.5 + 1, 1.0])[:, None]
    assert_near(scaled, torch.tensor(centered) / divisor)


def test_group_normalize_per_segment_literals():
    """Index 0: 1 and 3, deviation sqrt(2); index 1: 2 and 6, sqrt(8); index 2: only one reward."""
    values = torch.tensor([[1.0, 2.0, 9.0], [3.0, 6.0, NAN], [7.0, NAN, NAN]])
    counts, group = torch.tensor([3, 2, 1]), torch.tensor([0, 0, 1])
    centered = torch.tensor([[-1.0, -2.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    assert_identical(segkernel.group_normalize(values, counts, group, per="segment", scale=False), centered)
    expected = centered / torch.tensor([2**0.5, 8**0.5, 1.0])
    assert_near(segkernel.group_normalize(values, counts, group, per="segment", eps=0.0), expected)


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
def test_group_normalize_of_one_or_of_equal_rewards_gives_0(dtype: torch.dtype):
    values = torch.tensor([[0.1, 0.1, 0.1], [0.1, NAN, NAN], [0.7, NAN, NAN]], dtype=dtype)
    counts, group = torch.tensor([3, 1, 1]), torch.tensor([0, 0, 1])
    for per in ("group", "segment"):
        for eps in (0.0, 1e-6):
            normalized = segkernel.group_normalize(values, counts, group, per=per, eps=eps)
            assert_identical(normalized, torch.zeros_like(normalized))


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize(("B", "S"), [(0, 3), (3, 0), (1, 1), (9, 5), (270, 3), (6, 300)])
def test_group_normalize_equals_its_reference(B: int, S: int, dtype: torch.dtype):
    values, counts, group = random_groups(B, S, dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    for options in ({}, {"per": "segment"}, {"scale": False, "eps": 0.0}, {"per": "segment", "eps": 0.5}):
        with unchanged(values, counts, group):
            actual = segkernel.group_normalize(values, counts, group, **options)
        assert_near(actual, reference.group_normalize(values, counts, group, **options), rtol=tolerance, atol=tolerance)


def test_group_normalize_takes_counts_and_groups_of_any_integer_dtype():
    values, counts, group = random_groups(9, 5)
    expected = segkernel.group_normalize(values, counts, group)
    for dtype in (torch.int32, torch.int16, torch.int8):
        small = (group >> 40).to(dtype)
        assert_identical(segkernel.group_normalize(values, counts.to(dtype), small), expected)
    huge = torch.where(counts >= 5, 2**32, counts)
    assert_identical(segkernel.group_normalize(values, huge, group), expected)


@pytest.mark.parametrize("per", ["group", "segment"])
def test_group_normalize_does_not_depend_on_other_groups(per: str, threads: None):
    """The bits of a group are the same by itself, among others in any order, and with 2 threads."""
    values, counts, group = random_groups(270, 20)
    expected = segkernel.group_normalize(values, counts, group, per=per)
    for one in group.unique():
        rows = group == one
        alone = segkernel.group_normalize(values[rows], counts[rows], torch.zeros(int(rows.sum())).long(), per=per)
        assert_identical(alone, expected[rows])
    by_group = torch.cat([(group == one).nonzero()[:, 0] for one in group.unique().flip(0)])
    torch.set_num_threads(2)
    shuffled = segkernel.group_normalize(values[by_group], counts[by_group], group[by_group], per=per)
    assert_identical(shuffled, expected[by_group])


def test_group_normalize_of_rows_far_apart():
    """The rows of a group, with 298 other groups between them."""
    group = torch.arange(300)
    values, group[299] = group.float()[:, None], 0
    expected = torch.zeros(300, 1)
    expected[0], expected[299] = -149.5, 149.5
    counts = torch.ones(300, dtype=torch.int32)
    for per in ("group", "segment"):
        assert_identical(segkernel.group_normalize(values, counts, group, per=per, scale=False), expected)


def test_group_normalize_nan_rewards_stay_in_their_group():
    values, counts, group = torch.tensor([[1.0], [NAN], [2.0], [4.0]]), torch.ones(4).int(), torch.tensor([0, 0, 1, 1])
    normalized = segkernel.group_normalize(values, counts, group, scale=False)
    assert normalized[:2].isnan().all()
    assert normalized[2:].tolist() == [[-1.0], [1.0]]


def test_group_normalize_result_is_a_constant_passes_opcheck_and_compiles_as_one_graph():
    values, counts, group = random_groups(9, 5)
    values.requires_grad_()
    torch.compiler.reset()
    compiled = torch.compile(segkernel.group_normalize, fullgraph=True, backend="aot_eager")
    for options in ({}, {"per": "segment", "scale": False}):
        normalized = segkernel.group_normalize(values, counts, group, **options)
        assert not normalized.requires_grad
        assert_identical(compiled(values, counts, group, **options), normalized)
        opcheck(lambda options=options: segkernel.group_normalize(values.detach(), counts, group, **options))


def test_group_normalize_bad_arguments_raise():
    values, counts, group = random_groups(2, 3)
    for error, message, change in (
        (
            TypeError,
            "values: expected a floating-point tensor, got int64 [2, 3]",
            {"values": values.nan_to_num().long()},
        ),
        (ValueError, "values: expected [B, S], got float32 [2]", {"values": values[:, 0]}),
        (TypeError, "counts: expected an integer tensor, got float32 [2]", {"counts": counts.float()}),
        (ValueError, "counts: expected [2], got int64 [1]", {"counts": counts[:1]}),
        (TypeError, "group: expected an integer tensor, got list [0, 0]", {"group": [0, 0]}),
        (ValueError, "group: expected [2], got int64 [2, 1]", {"group": group[:, None]}),
        (ValueError, "group: expected a tensor on", {"group": group.to("meta")}),
        (ValueError, "per: expected one of 'group', 'segment', got 'row'", {"per": "row"}),
        (TypeError, "scale: expected True or False, got int 1", {"scale": 1}),
        (ValueError, "eps: expected a finite number >= 0, got -1.0", {"eps": -1.0}),
    ):
        with pytest.raises(error, match="^" + re.escape(message)):
            segkernel.group_normalize(**{"values": values, "counts": counts, "group": group, **change})
