import pytest
import torch

import segkernel
from segkernel import reference
from tests.helpers import DTYPES, LENGTHS, assert_near, random_batch, random_scores

NAN = float("nan")


def gae(rewards: list, values: list, mask: list | None = None, **options) -> tuple[list, list]:
    valid = None if mask is None else torch.tensor(mask)
    advantages, returns = segkernel.gae(torch.tensor(rewards), torch.tensor(values), valid, **options)
    return advantages.tolist(), returns.tolist()


REWARDS, VALUES = [[1.0, 0.0, 2.0]], [[0.5, 1.0, 1.5]]


def test_literals():
    # deltas: 2 - 1.5, 0 + 1.5 - 1, 1 + 1 - 0.5
    assert gae(REWARDS, VALUES, lam=0.0) == ([[1.5, 0.5, 0.5]], [[2.0, 1.5, 2.0]])
    # With lambda and gamma 1 the return is the sum of the rewards to come.
    assert gae(REWARDS, VALUES, lam=1.0) == ([[2.5, 1.0, 0.5]], [[3.0, 2.0, 2.0]])
    assert gae(REWARDS, VALUES, lam=0.5) == ([[1.875, 0.75, 0.5]], [[2.375, 1.75, 2.0]])
    # gamma 1/2, lambda 1/2: deltas 0.5, -0.25, 1; discount 1/4.
    assert gae(REWARDS, VALUES, gamma=0.5, lam=0.5) == ([[0.96875, -0.125, 0.5]], [[1.46875, 0.875, 2.0]])


def test_default_is_gamma_1_and_lambda_095():
    rewards, values = torch.tensor(REWARDS), torch.tensor(VALUES)
    advantages, _ = segkernel.gae(rewards, values)
    torch.testing.assert_close(advantages, torch.tensor([[1.5 + 0.95 * 0.975, 0.5 + 0.95 * 0.5, 0.5]]))


def test_masked_tokens_are_skipped():
    assert gae(
        [[NAN, 1.0, NAN, 0.0, 2.0, NAN], [NAN] * 6],
        [[NAN, 0.5, NAN, 1.0, 1.5, NAN], [NAN] * 6],
        [[0, 1, 0, 1, 1, 0], [0] * 6],
        lam=0.5,
    ) == (
        [[0.0, 1.875, 0.0, 0.75, 0.5, 0.0], [0.0] * 6],
        [[0.0, 2.375, 0.0, 1.75, 2.0, 0.0], [0.0] * 6],
    )


def test_packed_rows_do_not_see_each_other():
    cu_seqlens = torch.tensor([0, 1, 1, 4])
    gamma, lam = torch.tensor([1.0, 1.0, 0.5]), torch.tensor([1.0, 1.0, 0.5])
    assert gae([7.0, *REWARDS[0]], [4.0, *VALUES[0]], gamma=gamma, lam=lam, cu_seqlens=cu_seqlens) == (
        [3.0, 0.96875, -0.125, 0.5],
        [7.0, 1.46875, 0.875, 2.0],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", LENGTHS)
def test_against_the_reference(T, dtype):
    batch = random_batch(T)
    B = len(batch.lengths)
    rewards = batch.poison(random_scores(B, T, dtype=dtype))
    values = batch.poison(random_scores(B, T, dtype=dtype))
    per_row = {"gamma": torch.linspace(0.9, 1, B), "lam": torch.linspace(0, 1, B)}
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 5e-5}
    for options in ({}, per_row):
        actual = segkernel.gae(rewards, values, batch.mask, **options)
        expected = reference.gae(rewards, values, batch.mask, **options)
        assert_near(actual, expected, **tolerance)
        packed = segkernel.gae(
            batch.pack(rewards), batch.pack(values), batch.pack(batch.mask), cu_seqlens=batch.cu_seqlens, **options
        )
        assert_near(packed, (batch.pack(expected[0]), batch.pack(expected[1])), **tolerance)


def test_bad_parameters():
    rewards = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"values: expected .*\[2, 3\].*got float32 \[2, 4\]"):
        segkernel.gae(rewards, torch.zeros(2, 4))
    with pytest.raises(TypeError, match=r"values: expected .*got int64 \[2, 3\]"):
        segkernel.gae(rewards, torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"lam: expected .*\[2\].*got float32 \[5\]"):
        segkernel.gae(rewards, rewards, lam=torch.ones(5))
