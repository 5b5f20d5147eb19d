import math

import pytest
import torch

from segkernel.losses import bradley_terry_loss, dpo_loss, ppo_policy_loss, ppo_value_loss


def test_dpo_loss_literals() -> None:
    # Log-ratios: chosen -10 + 12 = 2, rejected -20 + 15 = -5 and 1 - 0, 1 - 0.
    losses, chosen, rejected = dpo_loss(
        torch.tensor([-10.0, 1.0]),
        torch.tensor([-20.0, 1.0]),
        torch.tensor([-12.0, 0.0]),
        torch.tensor([-15.0, 0.0]),
        beta=0.1,
    )
    torch.testing.assert_close(chosen, torch.tensor([0.2, 0.1]))
    torch.testing.assert_close(rejected, torch.tensor([-0.5, 0.1]))
    # -log sigmoid(0.7) = log(1 + exp(-0.7)), and log 2 where nothing is preferred.
    torch.testing.assert_close(losses, torch.tensor([math.log1p(math.exp(-0.7)), math.log(2)]))


@pytest.mark.parametrize(("weight", "difference"), [(1.0, 0.7), (0.5, 0.45), (0.0, 0.2), (2, 1.2)])
def test_dpo_loss_weighs_the_rejected_reward_only_in_the_loss(weight: float, difference: float) -> None:
    # Rewards 0.2 and -0.5: 0.2 - weight * -0.5.
    one = torch.ones(1)
    losses, chosen, rejected = dpo_loss(2 * one, -5 * one, 0 * one, 0 * one, beta=0.1, rejected_weight=weight)
    torch.testing.assert_close(losses, torch.tensor([math.log1p(math.exp(-difference))]))
    assert (chosen.item(), rejected.item()) == pytest.approx((0.2, -0.5))


@pytest.mark.parametrize("weight", [-0.1, math.inf, math.nan])
def test_dpo_loss_refuses_rejected_weight(weight: float) -> None:
    one = torch.zeros(1)
    with pytest.raises(ValueError, match="rejected_weight: expected a finite number >= 0, got"):
        dpo_loss(one, one, one, one, rejected_weight=weight)


def test_dpo_loss_gradient_raises_chosen_and_lowers_rejected() -> None:
    chosen = torch.zeros(1, requires_grad=True)
    rejected = torch.zeros(1, requires_grad=True)
    losses, chosen_rewards, _ = dpo_loss(chosen, rejected, torch.zeros(1), torch.zeros(1), beta=0.4)
    losses.sum().backward()
    # d/dx -log sigmoid(beta (x - y)) = -beta sigmoid(-beta (x - y)) = -0.4 / 2
    torch.testing.assert_close(chosen.grad, torch.tensor([-0.2]))
    torch.testing.assert_close(rejected.grad, torch.tensor([0.2]))
    assert not chosen_rewards.requires_grad


def test_losses_of_extreme_scores_are_finite() -> None:
    far = torch.tensor([1e4, -1e4])
    torch.testing.assert_close(bradley_terry_loss(far, -far), torch.tensor([0.0, 2e4]))
    losses, _, _ = dpo_loss(far, -far, torch.zeros(2), torch.zeros(2), beta=1.0)
    torch.testing.assert_close(losses, torch.tensor([0.0, 2e4]))


def test_bradley_terry_loss_literals() -> None:
    losses = bradley_terry_loss(torch.tensor([1.0, 0.0, -2.0]), torch.tensor([0.0, 0.0, 1.0]))
    expected = [math.log1p(math.exp(-1)), math.log(2), math.log1p(math.exp(3))]
    torch.testing.assert_close(losses, torch.tensor(expected))


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan])
def test_dpo_loss_refuses_beta(beta: float) -> None:
    one = torch.zeros(1)
    with pytest.raises(ValueError, match=r"beta: expected a finite number > 0, got"):
        dpo_loss(one, one, one, one, beta=beta)


def test_losses_refuse_shapes_that_would_broadcast() -> None:
    with pytest.raises(ValueError, match=r"rejected_scores: expected \[2\] like chosen_scores, got \[2, 1\]"):
        bradley_terry_loss(torch.zeros(2), torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"ref_rejected_logprobs: expected \[2\] like .*, got \[1\]"):
        dpo_loss(torch.zeros(2), torch.zeros(2), torch.zeros(2), torch.zeros(1))


def test_ppo_policy_loss_literals() -> None:
    # Ratio 1.5 (clipped at 1.2 for a gain, free for a loss), ratio 0.5 (free for a gain, clipped at 0.8 for a loss).
    logprobs = torch.tensor([1.5, 1.5, 0.5, 0.5]).log()
    advantages = torch.tensor([2.0, -2.0, 2.0, -2.0])
    losses, clipped = ppo_policy_loss(logprobs, torch.zeros(4), advantages, clip_range=0.2)
    torch.testing.assert_close(losses, torch.tensor([-2.4, 3.0, -1.0, 1.6]))
    assert clipped.tolist() == [True, False, False, True]


def test_ppo_policy_loss_has_no_gradient_where_clipped() -> None:
    logprobs = torch.tensor([1.5, 1.1]).log().requires_grad_()
    ppo_policy_loss(logprobs, torch.zeros(2), torch.ones(2))[0].sum().backward()
    # d/dlogprob of -ratio * A is -ratio.
    torch.testing.assert_close(logprobs.grad, torch.tensor([0.0, -1.1]))


def test_ppo_value_loss_literals() -> None:
    # Held at old + 0.2 = 0.2: (0.2 - 1)^2 / 2 is the larger; within the range the plain error.
    values, old, returns = torch.tensor([0.9, 0.1, -3.0]), torch.zeros(3), torch.tensor([1.0, 0.5, 1.0])
    torch.testing.assert_close(ppo_value_loss(values, old, returns, clip_range=0.2), torch.tensor([0.32, 0.08, 8.0]))


def test_ppo_losses_refuse_wrong_arguments() -> None:
    zero = torch.zeros(2)
    for loss in (ppo_policy_loss, ppo_value_loss):
        with pytest.raises(ValueError, match="clip_range: expected a finite number > 0, got 0"):
            loss(zero, zero, zero, clip_range=0.0)
        with pytest.raises(ValueError, match=r"expected \[2\] like .*, got \[3\]"):
            loss(zero, zero, torch.zeros(3))
