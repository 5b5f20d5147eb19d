"""Responses sampled from a policy by `generate`, with separate random numbers for each response.

A response is a function of the policy, its prompt and its key, independent of the other rows of the batch, the number
of processes and earlier samples. So a resumed run samples the same responses as an uninterrupted one.

Ids that the tokenizer has no token for have probability 0 in the distribution that is sampled from. The
log-probabilities that a method trains on are over all columns of the logits, in the rollout and in the update, so the
ratio of the first update is 1.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from segkernel import _validate
from segkernel.training.decoding import RowProcessor, decode
from segkernel.training.mixins import OptionsMixin
from segkernel.training.models.context import FITTED, shortest_context, the
from segkernel.training.models.response_tokens import ResponseTokens
from segkernel.training.progress import track

logger = logging.getLogger(__name__)


NEW_TOKENS, PROMPT_TOKENS = 128, 384  # defaults, lowered to the context of the models


@dataclass
class SamplingOptions(OptionsMixin):
    """Length and temperature of sampled responses; `fit_context` replaces lengths that are `None`."""

    _argument_group_name = "sampling"

    max_new_tokens: int = field(
        default=FITTED,
        metadata={
            "help": "Most tokens of a response; a longer one is cut off. Default: 128, or what the models' context "
            "leaves."
        },
    )
    max_prompt_length: int = field(
        default=FITTED,
        metadata={
            "help": "Most tokens of a prompt; a longer one loses its oldest tokens. Default: 384, or what the models' "
            "context leaves."
        },
    )
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_new_tokens", "max_prompt_length"):
            value = getattr(self, name)
            if value is not None:
                _validate.minimum(name, value, 1)
        _validate.positive("temperature", self.temperature)

    def fit_context(self, models: Mapping[str, Any]) -> None:
        """Replace lengths that are `None` by defaults that fit the shortest context of the models.

        Without a given length, a response gets at most a quarter of a context that is shorter than both defaults.

        Raises:
            ValueError: prompt and response together can exceed a context.
        """
        new, prompt = self.max_new_tokens, self.max_prompt_length
        shortest = shortest_context(models)
        if shortest is None:
            self.max_new_tokens, self.max_prompt_length = new or NEW_TOKENS, prompt or PROMPT_TOKENS
            return
        name, longest = shortest
        context = f"the context of {the(name)}"
        for option, given in (("max_new_tokens", new), ("max_prompt_length", prompt)):
            if given is not None and given >= longest:
                raise ValueError(
                    f"{option}: expected at most {longest - 1} tokens, one less than {context}, got {given}"
                )
        if new is not None and prompt is not None and new + prompt > longest:
            raise ValueError(
                f"max_prompt_length + max_new_tokens: expected at most {longest} tokens, {context}, "
                f"got {prompt} + {new} = {prompt + new}"
            )
        if new is None:
            room = longest - prompt if prompt is not None else max(longest - PROMPT_TOKENS, longest // 4, 1)
            self.max_new_tokens = min(NEW_TOKENS, room)
        if prompt is None:
            self.max_prompt_length = min(PROMPT_TOKENS, longest - self.max_new_tokens)
        for option, given, default in (
            ("max_new_tokens", new, NEW_TOKENS),
            ("max_prompt_length", prompt, PROMPT_TOKENS),
        ):
            fitted = getattr(self, option)
            if given is None and fitted < default:
                logger.warning(
                    "%s: %d tokens, to fit %s, %d tokens; the default is %d", option, fitted, context, longest, default
                )


BLOCK = 256  # tokens whose probabilities are added before the cumulative sum


class InverseTransform(RowProcessor):
    """Inverse transform sampling as a logits processor for greedy decoding.

    In every row it keeps only the token at which the cumulative distribution of `softmax(scores / temperature)`
    exceeds the row's next uniform number. Probabilities are float32, their sums float64.
    """

    def __init__(self, uniforms: Tensor, temperature: float) -> None:
        self.uniforms = uniforms  # [B, steps], in [0, 1)
        self.temperature = temperature

    def select(self, rows: Tensor) -> None:
        self.uniforms = self.uniforms[rows]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # Less the highest score, so that the largest weight is 1 at every temperature.
        weights = ((scores.float() - scores.amax(dim=-1, keepdim=True)) / self.temperature).exp_()
        token = token_at(weights, self.uniforms[:, self.step, None])
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def token_at(weights: Tensor, uniforms: Tensor) -> Tensor:
    """The first token at which the cumulative sum of a row's weights exceeds its share of their total.

    The block of the token is found first, then the token within it, so that only one block is added token by token.

    Args:
        weights: `[B, V]`, not negative, a positive one in every row.
        uniforms: `[B, 1]` float64, in [0, 1).

    Returns:
        `[B, 1]` int64; the weight of the token is positive.
    """
    blocks = nn.functional.pad(weights, (0, -weights.shape[1] % BLOCK)).unflatten(1, (-1, BLOCK))
    totals = blocks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    share = uniforms * totals[:, -1:]
    block = first_above(totals, share)
    before = nn.functional.pad(totals, (1, 0)).gather(1, block)
    within = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK)).squeeze(1).double().cumsum(dim=-1)
    return block * BLOCK + first_above(within, share - before)


def first_above(cumulative: Tensor, threshold: Tensor) -> Tensor:
    """Index of the first entry above a threshold, which rounding may have raised to the last entry or above it."""
    below_last = torch.nextafter(cumulative[:, -1:], torch.zeros_like(threshold))
    return torch.searchsorted(cumulative, torch.minimum(threshold, below_last), right=True)


def uniform_numbers(keys: Sequence[Sequence[int]], steps: int) -> Tensor:
    """Uniform random numbers in [0, 1), `[len(keys), steps]` float64; a row is a function of its key."""
    rows = [np.random.default_rng(list(key)).random(steps) for key in keys]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, steps, dtype=torch.float64)


@torch.no_grad()
def sample_responses(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[Sequence[int]] | None,
    options: SamplingOptions,
    *,
    tokens: ResponseTokens,
    batch_size: int,
    description: str | None = None,
    disable_tqdm: bool | None = False,
) -> list[list[int]]:
    """Sample one response per prompt.

    Args:
        model: the policy, on the device to sample on; it may be sharded by FSDP2.
        prompts: token ids, none empty.
        keys: non-negative integers per prompt, the seed of its random numbers; `None` decodes greedily.
        options: length and temperature.
        tokens: tokens that may be sampled, and those that end a response.
        batch_size: number of prompts per batch.
        description: name of the loop where its progress is shown; no progress without it.
        disable_tqdm: show the progress by lines, also in a terminal.

    Returns:
        Token ids per prompt, with one that ends a response last unless it was cut off.
    """
    was_training = model.training
    model.eval()
    generator: Any = model  # has a device, and `generate`, which transformers types as a tensor
    sharded = isinstance(model, FSDPModule)
    if sharded:
        register_fsdp_forward_method(model, "generate")
    steps = options.max_new_tokens or NEW_TOKENS
    uniforms = None if keys is None else uniform_numbers(keys, steps).to(generator.device)
    # Prompts of similar length share a batch.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    responses: dict[int, list[int]] = {}
    for batch in track(batches, description, total=len(batches), disable_tqdm=disable_tqdm):
        processor = None if uniforms is None else InverseTransform(uniforms[batch], options.temperature)
        batch_prompts = [prompts[index] for index in batch]
        found = decode(generator, batch_prompts, steps, tokens=tokens, processor=processor, sharded=sharded)
        responses.update(zip(batch, found, strict=True))
    model.train(was_training)
    return [responses[index] for index in range(len(prompts))]
