"""Decoding by `generate` in pieces. Responses that have ended are removed from the batch after each piece.

So the time of a batch depends on the lengths of all responses, not only on the longest one.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer
from transformers.generation.utils import GenerateDecoderOnlyOutput

from segkernel.training.models.response_tokens import KnownTokens, ResponseTokens

PIECE = 16  # tokens
# transformers renamed the argument and the field of the output.
CACHE = "cache" if "cache" in {found.name for found in fields(GenerateDecoderOnlyOutput)} else "past_key_values"


class RowProcessor(LogitsProcessor, ABC):
    """Logits processor with state of its own for each row.

    Attributes:
        step: number of tokens that the responses have.
    """

    step = 0

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Keep only some rows; `rows` are their indices, int64."""


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    steps: int,
    *,
    tokens: ResponseTokens,
    processor: RowProcessor | None,
    sharded: bool,
) -> list[list[int]]:
    """The likeliest token at each step, of the scores that the processor leaves.

    Args:
        model: the policy, in evaluation mode.
        prompts: token ids, none empty.
        steps: most tokens of a response.
        tokens: tokens that may be chosen, and those that end a response.
        processor: applied to the scores; its state follows the rows.
        sharded: the weights are sharded, so every process takes part in every step, even after its rows have ended.

    Returns:
        Token ids per prompt, with one that ends a response last unless it was cut off.
    """
    ids, mask = (part.to(model.device) for part in left_padded(prompts, tokens.pad_id))
    known = [] if tokens.known_ids is None else [KnownTokens(tokens.known_ids)]
    processors = LogitsProcessorList(known if processor is None else [*known, processor])
    ends = torch.tensor(tokens.end_ids, dtype=ids.dtype, device=ids.device)
    piece = steps if sharded or not tokens.end_ids else PIECE
    responses: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts))
    cache: dict[str, Any] = {}
    done = 0
    while len(rows) and done < steps:
        if processor is not None:
            processor.step = done
        config = GenerationConfig(
            max_new_tokens=min(piece, steps - done),
            do_sample=False,
            eos_token_id=list(tokens.end_ids) or None,
            pad_token_id=tokens.pad_id,
            return_dict_in_generate=True,
        )
        with generating_by(config, model):
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=processors,
                synced_gpus=sharded,
                **cache,
            )
        new = output.sequences[:, ids.shape[1] :]
        done += new.shape[1]
        for row, found in zip(rows.tolist(), new.tolist(), strict=True):
            responses[row] += found
        left = torch.isin(new, ends).any(dim=1).logical_not().nonzero().squeeze(1)
        rows = rows[left.cpu()]
        ids, mask = output.sequences[left], torch.cat([mask, torch.ones_like(new)], dim=1)[left]
        if processor is not None:
            processor.select(left)
        found_cache = getattr(output, CACHE)
        if selects_rows(found_cache):
            found_cache.batch_select_indices(left)
            cache = {CACHE: found_cache}
        else:  # the rest is one piece, since each begins by reading all earlier tokens
            piece = steps
    return [tokens.cut(response) for response in responses]


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask of prompts, `[B, T]` int64."""
    length = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def selects_rows(cache: Any) -> bool:
    """Whether rows can be removed from a cache. Those of linear attention, for example, have states that stay."""
    return isinstance(cache, DynamicCache) and all(
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers
    )


@contextmanager
def generating_by(config: GenerationConfig, generator: Any) -> Iterator[None]:
    """Replace the checkpoint's generation config.

    `generate` takes unset options from it. Its penalties, suppressed tokens and EOS would change the distribution that
    is sampled from.
    """
    before = generator.generation_config
    generator.generation_config = config
    try:
        yield
    finally:
        generator.generation_config = before
