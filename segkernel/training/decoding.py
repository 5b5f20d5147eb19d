"""Decoding by `generate` in pieces. Responses that have ended are removed from the batch after each piece.

So the time of a batch depends on the lengths of all responses, not only on the longest one. Text that prompts share is
read once, before the first piece.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation.utils import GenerateDecoderOnlyOutput

from segkernel.training.models.response_tokens import KnownTokens, ResponseTokens
from segkernel.training.prompt_cache import selects_rows, shared_cache

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
    known = [] if tokens.known_ids is None else [KnownTokens(tokens.known_ids)]
    processors = LogitsProcessorList(known if processor is None else [*known, processor])

    def generate(ids: Tensor, mask: Tensor, count: int, processors: LogitsProcessorList, cache: Any) -> Any:
        config = GenerationConfig(
            max_new_tokens=count,
            do_sample=False,
            eos_token_id=list(tokens.end_ids) or None,
            pad_token_id=tokens.pad_id,
            return_dict_in_generate=True,
        )
        with generating_by(config, model):
            return model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=config,
                logits_processor=processors,
                synced_gpus=sharded,
                **({} if cache is None else {CACHE: cache}),
            )

    def read(ids: Tensor, mask: Tensor, cache: Any) -> Any:
        return getattr(generate(ids, mask, 1, LogitsProcessorList(), cache), CACHE)

    ids, mask = (part.to(model.device) for part in left_padded(prompts, tokens.pad_id))
    cache = None if sharded else shared_cache(ids, mask, read)
    ends = torch.tensor(tokens.end_ids, dtype=ids.dtype, device=ids.device)
    piece = steps if sharded or not tokens.end_ids else PIECE
    responses: list[list[int]] = [[] for _ in prompts]
    rows = torch.arange(len(prompts))
    done = 0
    while len(rows) and done < steps:
        if processor is not None:
            processor.step = done
        output = generate(ids, mask, min(piece, steps - done), processors, cache)
        new = output.sequences[:, ids.shape[1] :]
        done += new.shape[1]
        for row, found in zip(rows.tolist(), new.tolist(), strict=True):
            responses[row] += found
        left = torch.isin(new, ends).any(dim=1).logical_not().nonzero().squeeze(1)
        rows = rows[left.cpu()]
        ids, mask = output.sequences[left], torch.cat([mask, torch.ones_like(new)], dim=1)[left]
        if processor is not None:
            processor.select(left)
        cache = getattr(output, CACHE)
        if selects_rows(cache):
            cache.batch_select_indices(left)
        else:  # the rest is one piece, since each begins by reading all earlier tokens
            cache, piece = None, steps
    return [tokens.cut(response) for response in responses]


def left_padded(prompts: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask of prompts, `[B, T]` int64."""
    length = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


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
