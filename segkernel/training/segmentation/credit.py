"""Agreement of a loss mask with the true credit of the tokens, for data where it is known."""

from collections.abc import Callable

from torch import Tensor

from segkernel.training.trainer.batches import Batch

# Function from a batch to the true credit of its tokens: +1, 0, -1, `[rows, T]`; the sides of a pair are separate rows.
TokenCredit = Callable[[Batch], Tensor]


def agrees_with_credit(kept: Tensor, credit: Tensor, signs: Tensor) -> Tensor:
    """Boolean `[B, T]`: the loss mask agrees with the true token credit.

    It agrees where it keeps a token whose credit has the sign of its row, and where it drops one whose credit has not.
    """
    return kept == (credit == signs[:, None])


def mask_agreement(kept: Tensor, credit: Tensor, signs: Tensor, mask: Tensor) -> Tensor:
    """Share of each row's valid tokens, `[B]`, whose loss mask agrees with the true credit.

    Example:
        >>> import torch
        >>> kept, credit = torch.tensor([[True, True, False]]), torch.tensor([[1, -1, -1]])
        >>> mask_agreement(kept, credit, torch.tensor([1]), torch.tensor([[True, True, True]]))
        tensor([0.6667])
    """
    agrees = agrees_with_credit(kept, credit, signs) & mask
    return agrees.sum(1) / mask.sum(1).clamp(min=1)
