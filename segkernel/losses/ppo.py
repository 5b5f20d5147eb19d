"""Policy and value losses of proximal policy optimization (PPO)."""

import torch
from torch import Tensor

from segkernel import _tensors, _validate


def ppo_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_range: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Clipped policy loss of PPO, one value per token (Schulman et al. 2017, arXiv 1707.06347, eq. 7).

    `-min(ratio * A, clip(ratio, 1 - clip_range, 1 + clip_range) * A)` with `ratio = exp(logprobs - old_logprobs)`.

    Args:
        logprobs: any shape, log-probabilities of the sampled tokens under the policy; carries the gradient.
        old_logprobs: the same under the policy that sampled the tokens.
        advantages: of the same shape.
        clip_range: distance of the ratio from 1 beyond which its gradient is 0; positive.

    Returns:
        `(losses, clipped)`, of that shape: `clipped` is true where the clipped term is the smaller one.

    Raises:
        TypeError: `clip_range` is not a number.
        ValueError: `clip_range` is not positive and finite, or the shapes differ.

    Example:
        >>> import torch
        >>> from segkernel.losses import ppo_policy_loss
        >>> losses, clipped = ppo_policy_loss(torch.tensor([0.4055, 0.0]), torch.zeros(2), torch.tensor([2.0, 2.0]))
        >>> losses  # ratios 1.5, clipped at 1.2, and 1
        tensor([-2.4000, -2.0000])
        >>> clipped
        tensor([ True, False])
    """
    _validate.positive("clip_range", clip_range)
    _tensors.same_shape(logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    ratio = (logprobs - old_logprobs).exp()
    unclipped, clipped = ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages
    return -torch.minimum(unclipped, clipped), (clipped < unclipped).detach()


def ppo_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip_range: float = 0.2) -> Tensor:
    """Clipped value loss of PPO, one value per token: half the larger of two squared errors.

    `max((V - R)^2, (clip(V, V_old - clip_range, V_old + clip_range) - R)^2) / 2`, as in the PPO of arXiv 2501.02790.

    Args:
        values: any shape, the value model's estimates; carries the gradient.
        old_values: its estimates at sampling time.
        returns: regression targets.
        clip_range: distance of an estimate from its old value beyond which its gradient is 0; positive.

    Returns:
        Losses of that shape.

    Raises:
        TypeError: `clip_range` is not a number.
        ValueError: `clip_range` is not positive and finite, or the shapes differ.

    Example:
        >>> import torch
        >>> from segkernel.losses import ppo_value_loss
        >>> ppo_value_loss(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0]), clip_range=0.25)
        tensor([0.2812])
    """
    _validate.positive("clip_range", clip_range)
    _tensors.same_shape(values=values, old_values=old_values, returns=returns)
    clipped = torch.maximum(torch.minimum(values, old_values + clip_range), old_values - clip_range)
    return torch.maximum((values - returns).square(), (clipped - returns).square()) / 2
