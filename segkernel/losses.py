"""Losses of the trainers, as pure functions of log-probabilities and scores."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["bradley_terry_loss", "dpo_loss"]


def dpo_loss(
    policy_chosen_logprobs: Tensor,
    policy_rejected_logprobs: Tensor,
    ref_chosen_logprobs: Tensor,
    ref_rejected_logprobs: Tensor,
    *,
    beta: float = 0.1,
) -> tuple[Tensor, Tensor, Tensor]:
    """DPO's loss, one value per pair (Rafailov et al. 2023, arXiv 2305.18290, eq. 7).

    `-log sigmoid(chosen_reward - rejected_reward)`, where a side's reward is `beta` times its log-ratio
    `policy - ref`. With log-probabilities summed over a loss mask only, this is the loss of Adaptive
    Segment-level Reward (arXiv 2411.00809).

    Args:
        policy_chosen_logprobs: `[B]`, summed log-probabilities of the chosen responses, in nats; carries the gradient.
        policy_rejected_logprobs: `[B]`, the same for the rejected responses.
        ref_chosen_logprobs: `[B]`, the reference model's sums over the same tokens.
        ref_rejected_logprobs: `[B]`.
        beta: strength of the pull towards the reference; positive.

    Returns:
        `(losses, chosen_rewards, rejected_rewards)`, each `[B]`; the rewards are detached.

    Raises:
        ValueError: `beta` is not positive, or the four tensors differ in shape.

    Example:
        >>> import torch
        >>> zero = torch.zeros(1)
        >>> losses, chosen, rejected = dpo_loss(torch.tensor([-1.0]), torch.tensor([-3.0]), zero, zero, beta=0.5)
        >>> losses  # log(1 + exp(-0.5 * 2))
        tensor([0.3133])
        >>> chosen, rejected
        (tensor([-0.5000]), tensor([-1.5000]))
    """
    if not beta > 0:
        raise ValueError(f"beta: expected a positive number, got {beta}")
    _check_same_shape(
        policy_chosen_logprobs=policy_chosen_logprobs,
        policy_rejected_logprobs=policy_rejected_logprobs,
        ref_chosen_logprobs=ref_chosen_logprobs,
        ref_rejected_logprobs=ref_rejected_logprobs,
    )
    chosen_rewards = beta * (policy_chosen_logprobs - ref_chosen_logprobs)
    rejected_rewards = beta * (policy_rejected_logprobs - ref_rejected_logprobs)
    losses = -F.logsigmoid(chosen_rewards - rejected_rewards)
    return losses, chosen_rewards.detach(), rejected_rewards.detach()


def bradley_terry_loss(chosen_scores: Tensor, rejected_scores: Tensor) -> Tensor:
    """The negative log-likelihood of the preferences under Bradley-Terry, one value per pair.

    `-log sigmoid(chosen_score - rejected_score)` (Ouyang et al. 2022, arXiv 2203.02155, eq. 1).

    Args:
        chosen_scores: `[B]`, the reward model's scores of the chosen responses.
        rejected_scores: `[B]`, the same for the rejected responses.

    Returns:
        `[B]` losses.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> import torch
        >>> bradley_terry_loss(torch.tensor([2.0]), torch.tensor([1.0]))
        tensor([0.3133])
    """
    _check_same_shape(chosen_scores=chosen_scores, rejected_scores=rejected_scores)
    return -F.logsigmoid(chosen_scores - rejected_scores)


def _check_same_shape(**tensors: Tensor) -> None:
    (first, expected), *rest = ((name, tuple(tensor.shape)) for name, tensor in tensors.items())
    for name, shape in rest:
        if shape != expected:
            raise ValueError(f"{name}: expected the shape of {first}, {list(expected)}, got {list(shape)}")
