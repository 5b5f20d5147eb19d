"""Loss of direct preference optimization (DPO)."""

import torch.nn.functional as F
from torch import Tensor

from segkernel import _tensors, _validate


def dpo_loss(
    policy_chosen_logprobs: Tensor,
    policy_rejected_logprobs: Tensor,
    ref_chosen_logprobs: Tensor,
    ref_rejected_logprobs: Tensor,
    *,
    beta: float = 0.1,
    rejected_weight: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """DPO loss, one value per pair (Rafailov et al. 2023, arXiv 2305.18290, eq. 7).

    `-log sigmoid(chosen_reward - rejected_reward)`, where the reward of a response is `beta` times its log-ratio
    `policy - ref`. With log-probabilities summed only over a loss mask, this is the loss of Adaptive Segment-level
    Reward (arXiv 2411.00809). `rejected_weight` scales the rejected reward in the difference (DPO-Shift, Yang et al.
    2025, arXiv 2502.07599): `-log sigmoid(chosen_reward - rejected_weight * rejected_reward)`, so that a weight below 1
    suppresses less.

    Args:
        policy_chosen_logprobs: `[B]`, summed log-probabilities of the chosen responses, in nats; carries the gradient.
        policy_rejected_logprobs: `[B]`, the same for the rejected responses.
        ref_chosen_logprobs: `[B]`, the reference model's sums over the same tokens.
        ref_rejected_logprobs: `[B]`, the same for the rejected responses.
        beta: weight of the implicit KL penalty toward the reference; positive.
        rejected_weight: weight of the rejected reward, at least 0; 1 is DPO, 0 only raises the chosen response.

    Returns:
        `(losses, chosen_rewards, rejected_rewards)`, each `[B]`; the rewards are detached and not weighted.

    Raises:
        TypeError: `beta` or `rejected_weight` is not a number.
        ValueError: `beta` is not positive and finite, `rejected_weight` is negative or not finite, or the four tensors
            differ in shape.

    Example:
        >>> import torch
        >>> from segkernel.losses import dpo_loss
        >>> zero = torch.zeros(1)
        >>> losses, chosen, rejected = dpo_loss(torch.tensor([-1.0]), torch.tensor([-3.0]), zero, zero, beta=0.5)
        >>> losses  # log(1 + exp(-0.5 * 2))
        tensor([0.3133])
        >>> chosen, rejected
        (tensor([-0.5000]), tensor([-1.5000]))
    """
    _validate.positive("beta", beta)
    _validate.weight("rejected_weight", rejected_weight)
    _tensors.same_shape(
        policy_chosen_logprobs=policy_chosen_logprobs,
        policy_rejected_logprobs=policy_rejected_logprobs,
        ref_chosen_logprobs=ref_chosen_logprobs,
        ref_rejected_logprobs=ref_rejected_logprobs,
    )
    chosen_rewards = beta * (policy_chosen_logprobs - ref_chosen_logprobs)
    rejected_rewards = beta * (policy_rejected_logprobs - ref_rejected_logprobs)
    losses = -F.logsigmoid(chosen_rewards - rejected_weight * rejected_rewards)
    return losses, chosen_rewards.detach(), rejected_rewards.detach()
