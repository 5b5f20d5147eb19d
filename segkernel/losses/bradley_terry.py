"""Bradley-Terry loss of reward models."""

import torch.nn.functional as F
from torch import Tensor

from segkernel import _tensors


def bradley_terry_loss(chosen_scores: Tensor, rejected_scores: Tensor) -> Tensor:
    """Negative log-likelihood of preferences under the Bradley-Terry model, one value per pair.

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
    _tensors.same_shape(chosen_scores=chosen_scores, rejected_scores=rejected_scores)
    return -F.logsigmoid(chosen_scores - rejected_scores)
