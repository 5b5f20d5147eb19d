"""Loss of simple preference optimization (SimPO), on mean log-probabilities and without a reference model."""

import torch.nn.functional as F
from torch import Tensor

from segkernel import _tensors, _validate


def simpo_loss(
    chosen_mean_logprobs: Tensor, rejected_mean_logprobs: Tensor, *, beta: float = 2.0, gamma: float = 0.5
) -> Tensor:
    """SimPO loss, one value per pair (Meng et al. 2024, arXiv 2405.14734, eq. 6).

    `-log sigmoid(beta * (chosen - rejected) - gamma)`. With means over selected tokens this is the loss of ConfPO, and
    with `beta=1, gamma=0` that of SePO (arXiv 2408.13518).

    Args:
        chosen_mean_logprobs: `[B]`, mean log-probabilities of the chosen responses' tokens, in nats.
        rejected_mean_logprobs: `[B]`, the same for the rejected responses.
        beta: scale of the difference; positive.
        gamma: margin by which the chosen response is to be ahead; at least 0.

    Returns:
        `[B]` losses.

    Raises:
        TypeError: `beta` or `gamma` is not a number.
        ValueError: `beta` is not positive and finite, `gamma` is negative or not finite, or the shapes differ.

    Example:
        >>> import torch
        >>> from segkernel.losses import simpo_loss
        >>> simpo_loss(torch.tensor([-1.0]), torch.tensor([-2.0]), beta=2.0, gamma=0.5)  # log(1 + exp(-1.5))
        tensor([0.2014])
    """
    _validate.positive("beta", beta)
    _validate.weight("gamma", gamma)
    _tensors.same_shape(chosen_mean_logprobs=chosen_mean_logprobs, rejected_mean_logprobs=rejected_mean_logprobs)
    return -F.logsigmoid(beta * (chosen_mean_logprobs - rejected_mean_logprobs) - gamma)
