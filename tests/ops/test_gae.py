import pytest
import torch

import segkernel

NAN = float("nan")


def gae(rewards: list, values: list, mask: list | None = None, **options) -> tuple[list, list]:
    valid = None if mask is None else torch.tensor(mask)
    advantages, returns = segkernel.gae(torch.tensor(rewards), torch.tensor(values), valid, **options)
    return advantages.tolist(), returns.tolist()


REWARDS, VALUES = [[1.0, 0.0, 2.0]], [[0.5, 1.0, 1.5]]


def test_gae_literals():
    # deltas: 2 - 1.5, 0 + 1.5 - 1, 1 + 1 - 0.5
    assert gae(REWARDS, VALUES, lam=0.0) == ([[1.5, 0.5, 0.5]], [[2.0, 1.5, 2.0]])
    # With lambda and gamma 1 the return is the sum of the rewards to come.
    assert gae(REWARDS, VALUES, lam=1.0) == ([[2.5, 1.0, 0.5]], [[3.0, 2.0, 2.0]])
    assert gae(REWARDS, VALUES, lam=0.5) == ([[1.875, 0.75, 0.5]], [[2.375, 1.75, 2.0]])
    # gamma 1/2, lambda 1/2: deltas 0.5, -0.25, 1; discount 1/4.
    assert gae(REWARDS, VALUES, gamma=0.5, lam=0.5) == ([[0.96875, -0.125, 0.5]], [[1.46875, 0.875, 2.0]])


def test_gae_defaults_are_gamma_1_and_lambda_095():
    rewards, values = torch.tensor(REWARDS), torch.tensor(VALUES)
    advantages, _ = segkernel.gae(rewards, values)
    torch.testing.assert_close(advantages, torch.tensor([[1.5 + 0.95 * 0.975, 0.5 + 0.95 * 0.5, 0.5]]))


def test_gae_skips_masked_tokens():
    assert gae(
        [[NAN, 1.0, NAN, 0.0, 2.0, NAN], [NAN] * 6],
        [[NAN, 0.5, NAN, 1.0, 1.5, NAN], [NAN] * 6],
        [[0, 1, 0, 1, 1, 0], [0] * 6],
        lam=0.5,
    ) == (
        [[0.0, 1.875, 0.0, 0.75, 0.5, 0.0], [0.0] * 6],
        [[0.0, 2.375, 0.0, 1.75, 2.0, 0.0], [0.0] * 6],
    )


def test_gae_decays_through_holes_as_steps_without_reward_and_value():
    # gamma = lam = 1/2. The token before the hole has delta 1 + 0 - 0.5, the hole 0 + 1.5 / 2 - 0. So the trace is
    # 0.75 + 0.5 / 4 = 0.875 there, and 0.5 + 0.875 / 4 before it. Masked positions outside do not count.
    assert gae(
        [[NAN, 1.0, NAN, 2.0, NAN], [NAN] * 5],
        [[NAN, 0.5, NAN, 1.5, NAN], [NAN] * 5],
        [[0, 1, 0, 1, 0], [0] * 5],
        gamma=0.5,
        lam=0.5,
        holes="decay",
    ) == ([[0.0, 0.71875, 0.0, 0.5, 0.0], [0.0] * 5], [[0.0, 1.21875, 0.0, 2.0, 0.0], [0.0] * 5])


def test_gae_returns_have_the_value_lambda():
    advantages, _ = gae(REWARDS, VALUES, lam=0.5)
    _, returns = gae(REWARDS, VALUES, lam=1.0)
    assert (
        gae(REWARDS, VALUES, lam=0.5, value_lam=1.0)
        == (advantages, returns)
        == (
            [[1.875, 0.75, 0.5]],
            [[3.0, 2.0, 2.0]],
        )
    )
    per_row = torch.tensor([0.0, 1.0])
    assert gae(REWARDS * 2, VALUES * 2, lam=0.5, value_lam=per_row) == (
        advantages * 2,
        [[2.0, 1.5, 2.0], [3.0, 2.0, 2.0]],
    )


def test_gae_packed_rows_are_independent():
    cu_seqlens = torch.tensor([0, 1, 1, 4])
    gamma, lam = torch.tensor([1.0, 1.0, 0.5]), torch.tensor([1.0, 1.0, 0.5])
    assert gae([7.0, *REWARDS[0]], [4.0, *VALUES[0]], gamma=gamma, lam=lam, cu_seqlens=cu_seqlens) == (
        [3.0, 0.96875, -0.125, 0.5],
        [7.0, 1.46875, 0.875, 2.0],
    )


def test_gae_refuses_mismatched_values_and_parameters():
    rewards = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"values: expected .*\[2, 3\].*got float32 \[2, 4\]"):
        segkernel.gae(rewards, torch.zeros(2, 4))
    with pytest.raises(TypeError, match=r"values: expected .*got int64 \[2, 3\]"):
        segkernel.gae(rewards, torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^lam: expected .*\[2\].*got float32 \[5\]"):
        segkernel.gae(rewards, rewards, lam=torch.ones(5))
    with pytest.raises(ValueError, match=r"^value_lam: expected .*\[2\].*got float32 \[5\]"):
        segkernel.gae(rewards, rewards, value_lam=torch.ones(5))
    with pytest.raises(ValueError, match=r"^holes: expected one of 'skip', 'decay', got 'fill'$"):
        segkernel.gae(rewards, rewards, holes="fill")
