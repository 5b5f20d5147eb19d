"""Losses of the trainers, as pure functions of log-probabilities and scores."""

import torch
import torch.nn.functional as F
from torch import Tensor

from segkernel import _validate

__all__ = ["bradley_terry_loss", "dpo_loss", "ppo_policy_loss", "ppo_value_loss"]


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
        >>> from segkernel.losses import dpo_loss
        >>> zero = torch.zeros(1)
        >>> losses, chosen, rejected = dpo_loss(torch.tensor([-1.0]), torch.tensor([-3.0]), zero, zero, beta=0.5)
        >>> losses  # log(1 + exp(-0.5 * 2))
        tensor([0.3133])
        >>> chosen, rejected
        (tensor([-0.5000]), tensor([-1.5000]))
    """
    if not beta > 0:
        raise ValueError(f"beta: expected a positive number, got {beta}")
    _validate.same_shape(
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
        >>> from segkernel.losses import bradley_terry_loss
        >>> bradley_terry_loss(torch.tensor([2.0]), torch.tensor([1.0]))
        tensor([0.3133])
    """
    _validate.same_shape(chosen_scores=chosen_scores, rejected_scores=rejected_scores)
    return -F.logsigmoid(chosen_scores - rejected_scores)


def ppo_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_range: float = 0.2
) -> tuple[Tensor, Tensor]:
    """PPO's clipped policy loss, one value per token (Schulman et al. 2017, arXiv 1707.06347, eq. 7).

    `-min(ratio * A, clip(ratio, 1 - clip_range, 1 + clip_range) * A)` with `ratio = exp(logprobs - old_logprobs)`.

    Args:
        logprobs: any shape, log-probabilities of the sampled tokens under the policy; carries the gradient.
        old_logprobs: the same under the policy that sampled them.
        advantages: of the same shape.
        clip_range: how far the ratio may move before its gradient stops; positive.

    Returns:
        `(losses, clipped)`, of that shape: `clipped` is true where the clipped term is the smaller one.

    Raises:
        ValueError: `clip_range` is not positive, or the shapes differ.

    Example:
        >>> import torch
        >>> from segkernel.losses import ppo_policy_loss
        >>> losses, clipped = ppo_policy_loss(torch.tensor([0.4055, 0.0]), torch.zeros(2), torch.tensor([2.0, 2.0]))
        >>> losses  # ratios 1.5, clipped at 1.2, and 1
        tensor([-2.4000, -2.0000])
        >>> clipped
        tensor([ True, False])
    """
    if not clip_range > 0:
        raise ValueError(f"clip_range: expected a positive number, got {clip_range}")
    _validate.same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    ratio = (logprobs - old_logprobs).exp()
    free, held = ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages
    return -torch.minimum(free, held), (held < free).detach()


def ppo_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip_range: float = 0.2) -> Tensor:
    """PPO's clipped value loss, one value per token: half the squared error, the larger of two.

    `max((V - R)^2, (clip(V, V_old - clip_range, V_old + clip_range) - R)^2) / 2`, as in the PPO of arXiv 2501.02790.

    Args:
        values: any shape, the value model's estimates; carries the gradient.
        old_values: its estimates when the tokens were sampled.
        returns: what they are held to.
        clip_range: how far an estimate may move from its old value before its gradient stops; positive.

    Returns:
        Losses of that shape.

    Raises:
        ValueError: `clip_range` is not positive, or the shapes differ.

    Example:
        >>> import torch
        >>> from segkernel.losses import ppo_value_loss
        >>> ppo_value_loss(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0]), clip_range=0.25)
        tensor([0.2812])
    """
    if not clip_range > 0:
        raise ValueError(f"clip_range: expected a positive number, got {clip_range}")
    _validate.same_shape(values=values, old_values=old_values, returns=returns)
    held = torch.maximum(torch.minimum(values, old_values + clip_range), old_values - clip_range)
    return torch.maximum((values - returns).square(), (held - returns).square()) / 2
