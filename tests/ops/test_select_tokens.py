import re
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import segkernel
from segkernel import reference
from tests.helpers import BACKEND, EVERY_DTYPE, LENGTHS, assert_identical, opcheck, random_batch, random_scores

NAN, INF = float("nan"), float("inf")
ENTROPY = torch.tensor([[0.5, 2.0, 1.75, NAN, 2.0], [-0.0, -3.0, 0.0, NAN, -INF]])
MASK = torch.tensor([[1, 1, 1, 0, 1], [1, 1, 1, 1, 1]])


def selected(values: torch.Tensor, mask: torch.Tensor | None = None, **options) -> list:
    return segkernel.select_tokens(values, mask, **options).int().tolist()


def test_select_tokens_literals():
    assert segkernel.select_tokens(ENTROPY, MASK, count=1).dtype == torch.bool
    # Ties go to the earlier token; 0.0 and -0.0 are equal.
    assert selected(ENTROPY, MASK, count=1) == [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert selected(ENTROPY, MASK, count=2) == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]
    assert selected(ENTROPY, MASK, count=3) == [[0, 1, 1, 0, 1], [1, 1, 1, 0, 0]]
    assert selected(ENTROPY, MASK, count=1, largest=False) == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]
    assert selected(ENTROPY, MASK, count=3, largest=False) == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 1]]


def test_select_tokens_takes_nan_after_infinity_in_both_directions():
    values = torch.tensor([[NAN, -INF, INF, NAN, -NAN]])
    for largest in (True, False):
        assert selected(values, count=2, largest=largest) == [[0, 1, 1, 0, 0]]
        assert selected(values, count=3, largest=largest) == [[1, 1, 1, 0, 0]]
        assert selected(values, count=4, largest=largest) == [[1, 1, 1, 1, 0]]


def test_select_tokens_counts_literals():
    assert selected(ENTROPY, MASK, count=0) == [[0] * 5, [0] * 5]
    assert selected(ENTROPY, MASK, count=2**62) == MASK.tolist()
    assert selected(ENTROPY, MASK, fraction=0) == [[0] * 5, [0] * 5]
    assert selected(ENTROPY, MASK, fraction=1.0) == MASK.tolist()
    # 4 and 5 valid tokens: a share of 0.3 is 1.2 and 1.5 tokens.
    assert selected(ENTROPY, MASK, fraction=0.3) == [[0, 1, 0, 0, 1], [1, 0, 1, 0, 0]]
    assert selected(ENTROPY, MASK, fraction=0.3, rounding="floor") == [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
    assert selected(ENTROPY, MASK, count=torch.tensor([0, 2])) == [[0] * 5, [1, 0, 1, 0, 0]]
    assert selected(ENTROPY, MASK, fraction=torch.tensor([0.25, 1.0])) == [[0, 1, 0, 0, 0], [1] * 5]
    assert selected(ENTROPY, torch.zeros(2, 5), fraction=1.0) == [[0] * 5, [0] * 5]


def test_select_tokens_of_the_whole_batch_literals():
    values = torch.tensor([[3.0, 1.0, NAN], [2.0, 3.0, 0.0], [3.0, 3.0, 9.0]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 0]])
    assert selected(values, mask, count=3, scope="batch") == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert selected(values, mask, fraction=0.5, scope="batch") == [[1, 0, 0], [0, 1, 0], [1, 1, 0]]  # 4 of 7
    assert selected(values, mask, fraction=0.5, scope="batch", rounding="floor") == [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert selected(values, mask, fraction=torch.tensor(0.25), scope="batch", largest=False) == [
        [0, 1, 0], [0, 0, 1], [0, 0, 0]
    ]  # fmt: skip
    packed, cu_seqlens = torch.tensor([3.0, 1.0, 3.0, 3.0]), torch.tensor([0, 2, 2, 4])
    assert selected(packed, count=2, scope="batch", cu_seqlens=cu_seqlens) == [1, 0, 1, 0]
    assert selected(packed, count=torch.tensor(1), scope="batch", cu_seqlens=cu_seqlens) == [1, 0, 0, 0]
    assert selected(packed, count=1, cu_seqlens=cu_seqlens) == [1, 0, 1, 0]


def selected_numbers(fraction, rows: int, n: int, **options) -> list:
    return segkernel.select_tokens(torch.zeros(rows, n), fraction=fraction, **options).sum(1).tolist()


@pytest.mark.parametrize("n", [10, 30, 100, 700])
def test_fraction_times_n_is_not_rounded_past_an_integer(n):
    exact = [Fraction(hundredths, 100) * n for hundredths in range(101)]
    for dtype in (torch.float64, torch.float32):
        fractions = torch.arange(101, dtype=torch.float64).div(100).to(dtype)
        assert selected_numbers(fractions, 101, n) == [-(-share // 1) for share in exact]
        assert selected_numbers(fractions, 101, n, rounding="floor") == [share // 1 for share in exact]
    assert selected_numbers(0.07, 1, 100) == [7]  # 0.07 * 100 is 7.000000000000001
    assert selected_numbers(0.29, 1, 100, rounding="floor") == [29]  # 28.999999999999996


def test_fraction_of_few_tokens_selects_at_least_one():
    for fraction in (1e-3, 1e-9, 5e-324):
        assert selected_numbers(fraction, 2, 3) == [1, 1]
        assert selected_numbers(fraction, 2, 3, rounding="floor") == [0, 0]


def special_scores(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Scores with ties, zeros of both signs, infinities and NaNs."""
    scores = random_scores(*shape, dtype=dtype)
    for value in (0.0, -0.0, INF, -INF, NAN, -NAN):
        scores[torch.rand(shape) < 0.05] = value
    return scores


@pytest.mark.parametrize("dtype", EVERY_DTYPE)
@pytest.mark.parametrize("T", LENGTHS)
def test_select_tokens_equals_reference(T, dtype):
    batch = random_batch(T)
    B = len(batch.lengths)
    values = batch.poison(special_scores(B, T, dtype=dtype))
    packed_values, packed_mask = batch.pack(values), batch.pack(batch.mask)
    for options in (
        {"fraction": 0.2},
        {"fraction": torch.rand(B), "largest": False, "rounding": "floor"},
        {"count": torch.randint(T + 2, (B,))},
        {"count": 3, "largest": False},
        {"fraction": 0.3, "scope": "batch"},
        {"count": T, "scope": "batch", "largest": False},
    ):
        expected = reference.select_tokens(values, batch.mask, **options)
        assert_identical(segkernel.select_tokens(values, batch.mask, **options), expected)
        packed = segkernel.select_tokens(packed_values, packed_mask, cu_seqlens=batch.cu_seqlens, **options)
        assert_identical(packed, batch.pack(expected))


N = 40_000  # several chunks of the CPU's kernel, several tiles and blocks of CUDA's
LONG_ROWS = {
    "normal": lambda: torch.randn(N),
    "sorted": lambda: torch.arange(N) / 7,
    "two values": lambda: (torch.rand(N) < 0.4).float(),
    "period of the sample": lambda: torch.arange(N) % (N // 64) / 8,
    "every exponent": lambda: torch.randn(N) * 2.0 ** torch.randint(-120, 120, (N,)),
    "one large value": lambda: torch.where(torch.arange(N) == 77, 1e30, 0.0),
    "adjacent floats": lambda: (0x3F800000 + torch.randint(9, (N,), dtype=torch.int32)).view(torch.float32),
    "NaN": lambda: torch.full((N,), NAN),
}


@pytest.mark.parametrize("kind", LONG_ROWS)
def test_select_tokens_of_long_rows_equals_reference(kind):
    mask = torch.rand(5, N // 5) < 0.9
    for dtype, options in (
        (torch.float32, {"fraction": 0.4}),
        (torch.float32, {"fraction": 0.97, "largest": False}),
        (torch.float64, {"count": N // 8}),
    ):
        values = LONG_ROWS[kind]().to(dtype).view(5, -1)
        expected = reference.select_tokens(values, mask, scope="batch", **options)
        assert_identical(segkernel.select_tokens(values, mask, scope="batch", **options), expected)
        expected = reference.select_tokens(values, mask, **options)
        assert_identical(segkernel.select_tokens(values, mask, **options), expected)


def test_select_tokens_of_long_packed_rows_equals_reference():
    values = (torch.randn(2 * N) * 8).round() / 8
    options = {"cu_seqlens": torch.tensor([0, N // 2, 2 * N]), "count": torch.tensor([3, N])}
    mask = torch.rand(2 * N) < 0.9
    expected = reference.select_tokens(values, mask, **options)
    assert_identical(segkernel.select_tokens(values, mask, **options), expected)


def test_select_tokens_of_the_whole_batch_does_not_depend_on_the_thread_count(threads):
    values, mask = (torch.randn(30, 2000) * 4).round() / 4, torch.rand(30, 2000) < 0.7
    outs = []
    for number in (1, 2):
        torch.set_num_threads(number)
        outs.append(segkernel.select_tokens(values, mask, fraction=0.3, scope="batch"))
    assert_identical(outs[1], outs[0])


def test_select_tokens_of_the_whole_batch_passes_opcheck_and_compiles_as_one_graph():
    values, mask = random_scores(4, 33), torch.rand(4, 33) < 0.7
    opcheck(lambda: segkernel.select_tokens(values, mask, fraction=0.3, scope="batch", rounding="floor"))
    opcheck(lambda: segkernel.select_tokens(values, count=torch.tensor(7), scope="batch"))

    def call(values, count):
        return segkernel.select_tokens(values, count=count, scope="batch", largest=False)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for count in (5, 9, torch.tensor(11)):
        assert_identical(compiled(values[:, :count], count), call(values[:, :count], count))


@given(
    values=st.lists(st.floats(width=32), max_size=80) | st.lists(st.sampled_from([0.0, -0.0, 1.0, NAN]), max_size=80),
    fraction=st.floats(0, 1),
    largest=st.booleans(),
)
def test_select_tokens_selects_k_tokens_none_of_which_ranks_after_another(values, fraction, largest):
    chosen = segkernel.select_tokens(torch.tensor([values]), fraction=fraction, largest=largest)[0].tolist()
    assert sum(chosen) == reference.select_tokens(torch.zeros(1, len(values)), fraction=fraction).sum()
    sign = -1 if largest else 1
    ranks = [(value != value, sign * value if value == value else 0, t) for t, value in enumerate(values)]
    left_out = [rank for rank, is_chosen in zip(ranks, chosen, strict=True) if not is_chosen]
    assert all(rank < min(left_out) for rank, is_chosen in zip(ranks, chosen, strict=True) if is_chosen and left_out)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "select_tokens: expected fraction or count, got neither"),
        ({"fraction": 0.5, "count": 1}, "select_tokens: expected fraction or count, got both"),
        ({"fraction": 1.5}, "fraction: expected 0 <= fraction <= 1, got 1.5"),
        ({"fraction": NAN}, "fraction: expected 0 <= fraction <= 1, got nan"),
        ({"fraction": torch.tensor([0.5, -1.0])}, "fraction: expected 0 <= fraction <= 1, got -1"),
        ({"count": -1}, "count: expected >= 0, got -1"),
        ({"count": torch.tensor([1, -1])}, "count: expected >= 0, got -1"),
        ({"count": 1, "scope": "sequence"}, "scope: expected one of 'row', 'batch', got 'sequence'"),
        ({"count": 1, "rounding": "up"}, "rounding: expected one of 'ceil', 'floor', got 'up'"),
        ({"fraction": torch.rand(3)}, "fraction: expected a number or a tensor [2], one per row, got float32 [3]"),
        (
            {"fraction": torch.rand(2), "scope": "batch"},
            "fraction: expected a number with scope='batch', got float32 [2]",
        ),
        (
            {"count": torch.ones(2, dtype=torch.int32), "scope": "batch"},
            "count: expected a number with scope='batch', got int32 [2]",
        ),
    ],
)
def test_select_tokens_refuses_wrong_values(options, message, value_checks):
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        segkernel.select_tokens(ENTROPY, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 1.5}, "count: expected an integer, got float 1.5"),
        ({"count": True}, "count: expected an integer, got bool True"),
        ({"count": torch.ones(2)}, "count: expected an integer tensor, got float32 [2]"),
        ({"fraction": "half"}, "fraction: expected a number or a [B] tensor, got str 'half'"),
        ({"count": 1, "largest": 1}, "largest: expected True or False, got int 1"),
    ],
)
def test_select_tokens_refuses_wrong_types(options, message):
    with pytest.raises(TypeError, match="^" + re.escape(message)):
        segkernel.select_tokens(ENTROPY, **options)


@pytest.mark.skipif(BACKEND == "cpu", reason="the CPU's operators refuse them")
def test_unchecked_shares_and_counts_out_of_range_are_clamped():
    values = torch.zeros(3, 2)
    assert selected(values, fraction=torch.tensor([-1.0, NAN, 7.0])) == [[0, 0], [0, 0], [1, 1]]
    assert selected(values, count=torch.tensor([-1, 1, 9])) == [[0, 0], [1, 0], [1, 1]]
