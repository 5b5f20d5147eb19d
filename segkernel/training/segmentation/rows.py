"""Token values of responses without padding, in the packed layout of the operators."""

from dataclasses import dataclass
from functools import cached_property

import torch
from accelerate.utils import gather_object
from torch import Tensor

from segkernel.training.data.tables import FlatLists


@dataclass(frozen=True)
class TokenRows:
    """Values of the tokens of `B` responses, one response after another.

    Args:
        values: `[N]`.
        cu_seqlens: `[B + 1]` int64, as in `segkernel.segment`.
        ended: `[B]` bool, whether the last token of a response is one that ends it, such as EOS, whose value does not
            count. `None`: every value counts.
    """

    values: Tensor
    cu_seqlens: Tensor
    ended: Tensor | None = None

    @classmethod
    def of_lists(cls, lists: FlatLists, ended: Tensor | None = None) -> "TokenRows":
        """Lists of numbers, as float32: the dtype of rewards that a model gives."""
        return cls(torch.tensor(lists.values, dtype=torch.float32), torch.from_numpy(lists.offsets), ended)

    @classmethod
    def of_padded(cls, values: Tensor, mask: Tensor, ended: Tensor | None = None) -> "TokenRows":
        """Values under a mask, `[B, T]` both; the others are never read. A row may have no token under the mask."""
        cu_seqlens = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0))
        return cls(values[mask], cu_seqlens, None if ended is None else ended & (cu_seqlens.diff() > 0))

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of every response, `[B]`."""
        return self.cu_seqlens.diff()

    @cached_property
    def rows(self) -> Tensor:
        """Response of every token, `[N]` int64."""
        index = torch.arange(len(self.lengths), device=self.values.device)
        return index.repeat_interleave(self.lengths, output_size=len(self.values))

    @property
    def ends(self) -> Tensor:
        """Positions of the tokens that end a response, `[E]` int64."""
        last = self.cu_seqlens[1:] - 1
        return last[:0] if self.ended is None else last[self.ended]

    @property
    def scored(self) -> "TokenRows":
        """The same responses without the tokens that end them."""
        if self.ended is None:
            return self
        kept = torch.ones_like(self.values, dtype=torch.bool)
        kept[self.ends] = False
        offsets = torch.nn.functional.pad((self.lengths - self.ended.long()).cumsum(0), (1, 0))
        return TokenRows(self.values[kept], offsets)

    def gather(self) -> "TokenRows":
        """Responses of all processes, on the CPU."""
        values, lengths = (gather_object(numbers.tolist()) for numbers in (self.values, self.lengths))
        offsets = torch.nn.functional.pad(torch.tensor(lengths, dtype=torch.int64).cumsum(0), (1, 0))
        return TokenRows(torch.tensor(values, dtype=self.values.dtype), offsets)
