"""Tokens of sampled responses: those that may be sampled, those that end a response, and the padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

__all__ = ["KnownTokens", "ResponseTokens"]


@dataclass(frozen=True)
class ResponseTokens:
    """Token ids that bound a sampled response.

    Args:
        end_ids: tokens that end a response, as its last one.
        pad_id: token that pads the batches.
        known_ids: the only tokens that are sampled, `[K]` int64; `None` for every column of the logits.
    """

    end_ids: tuple[int, ...]
    pad_id: int
    known_ids: Tensor | None = None

    @classmethod
    def of(cls, model: Any, tokenizer: PreTrainedTokenizerBase | None, *, pad_id: int) -> "ResponseTokens":
        """Tokens of a model and its tokenizer.

        A response ends with any `eos_token_id` of the model's generation config, such as the end of a turn, or with
        the tokenizer's EOS. Ids without a token, as in embeddings padded to a round size, are not sampled.
        """
        ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        end_ids = list(ends) if isinstance(ends, Sequence | Tensor) else [ends]
        known = None
        if tokenizer is not None:
            end_ids.append(tokenizer.eos_token_id)
            known = torch.tensor(sorted(set(tokenizer.get_vocab().values())))
        return cls(tuple(sorted({int(i) for i in end_ids if i is not None})), pad_id, known)

    def cut(self, ids: list[int]) -> list[int]:
        """Tokens of a response up to its first end, which is kept."""
        return ids[: next((at for at, token in enumerate(ids, 1) if token in self.end_ids), len(ids))]

    def ended(self, responses: Sequence[Sequence[int]]) -> Tensor:
        """Boolean `[B]`: the last token of a response ends it; otherwise it was cut off."""
        return torch.tensor([response[-1] in self.end_ids for response in responses])


class KnownTokens(LogitsProcessor):
    """Logits processor that gives every token but the known ones probability 0."""

    def __init__(self, known_ids: Tensor) -> None:
        self.known_ids = known_ids
        self.unknown: Tensor | None = None  # [V]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.unknown is None:
            self.unknown = torch.ones(scores.shape[1], dtype=torch.bool)
            self.unknown[self.known_ids[self.known_ids < scores.shape[1]]] = False
            self.unknown = self.unknown.to(scores.device)
        return scores.masked_fill(self.unknown, -torch.inf)
