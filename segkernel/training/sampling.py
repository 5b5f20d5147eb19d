"""Responses sampled from a policy by `generate`, each from random numbers of its own.

A response depends on the policy, its prompt and its key alone: not on the other rows of the batch, the number of
processes, or what was sampled before. So a resumed run samples what the uninterrupted one did.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from tqdm.auto import tqdm
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from segkernel.training.mixins import OptionsMixin


@dataclass
class SamplingOptions(OptionsMixin):
    """Length and temperature of sampled responses."""

    _argument_group_name = "sampling"

    max_new_tokens: int = field(
        default=128, metadata={"help": "A response that has not ended after so many tokens is cut off there."}
    )
    max_prompt_length: int = field(
        default=384, metadata={"help": "Most tokens of a prompt; a longer one loses its oldest tokens."}
    )
    temperature: float = field(default=1.0, metadata={"help": "Temperature of the policy that is sampled from."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_new_tokens", "max_prompt_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected a positive number, got {self.temperature}")

    def check_context(self, model: PreTrainedModel) -> None:
        """Refuse prompts and responses that together would exceed what `model` is made for.

        Raises:
            ValueError: `max_prompt_length + max_new_tokens` is above the model's `max_position_embeddings`.
        """
        longest = getattr(model.config, "max_position_embeddings", None)
        if longest is not None and self.max_prompt_length + self.max_new_tokens > longest:
            raise ValueError(
                f"max_prompt_length: expected at most {longest - self.max_new_tokens} beside max_new_tokens="
                f"{self.max_new_tokens}, since the model is made for {longest} tokens, got {self.max_prompt_length}"
            )


class InverseTransform(LogitsProcessor):
    """Leaves of every row the token at which the cumulative distribution passes the row's next uniform number.

    Under greedy decoding that is a sample of `softmax(scores / temperature)`.
    """

    def __init__(self, uniforms: Tensor, temperature: float) -> None:
        self.uniforms = uniforms  # [B, steps], in [0, 1)
        self.temperature = temperature
        self.step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        cumulative = (scores.double() / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        threshold = self.uniforms[:, self.step, None] * cumulative[:, -1:]
        # `right`: the first entry above the threshold, so that a token of probability 0 is never taken.
        token = torch.searchsorted(cumulative, threshold, right=True).clamp(max=scores.shape[1] - 1)
        self.step += 1
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def uniform_numbers(keys: Sequence[Sequence[int]], steps: int) -> Tensor:
    """`[len(keys), steps]` float64 in [0, 1); a row is a function of its key alone."""
    rows = [np.random.default_rng(list(key)).random(steps) for key in keys]
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, steps, dtype=torch.float64)


@contextmanager
def generating_by(config: GenerationConfig, generator: Any) -> Iterator[None]:
    """Put `config` in place of the checkpoint's own.

    What a config leaves open `generate` takes from the model's: penalties, suppressed tokens, an EOS, all of which
    would leave the policy's distribution.
    """
    before = generator.generation_config
    generator.generation_config = config
    try:
        yield
    finally:
        generator.generation_config = before


@torch.no_grad()
def sample_responses(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[Sequence[int]] | None,
    options: SamplingOptions,
    *,
    eos_token_id: int | None,
    pad_token_id: int,
    batch_size: int,
    description: str | None = None,
) -> list[list[int]]:
    """Sample one response per prompt.

    Args:
        model: the policy, on the device to sample on; it may be sharded by FSDP2.
        prompts: token ids, none empty.
        keys: non-negative integers per prompt that its random numbers are made from; `None` decodes greedily.
        options: length and temperature.
        eos_token_id: what ends a response.
        pad_token_id: what fills the batches; never part of a response.
        batch_size: prompts sampled at once.
        description: shows a progress bar under this name.

    Returns:
        Token ids per prompt, closed by the EOS unless the response was cut off.
    """
    was_training = model.training
    model.eval()
    generator: Any = model  # has a device, and `generate`, which transformers types as a tensor
    sharded = isinstance(model, FSDPModule)
    if sharded:
        register_fsdp_forward_method(model, "generate")
    config = GenerationConfig(
        max_new_tokens=options.max_new_tokens, do_sample=False, eos_token_id=eos_token_id, pad_token_id=pad_token_id
    )
    uniforms = None if keys is None else uniform_numbers(keys, options.max_new_tokens).to(generator.device)
    # Prompts of like length share a batch.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]), reverse=True)
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    responses: dict[int, list[int]] = {}
    for batch in tqdm(batches, desc=description, disable=description is None):
        length = len(prompts[batch[0]])
        input_ids = torch.tensor([[pad_token_id] * (length - len(prompts[i])) + list(prompts[i]) for i in batch])
        attention_mask = torch.tensor([[0] * (length - len(prompts[i])) + [1] * len(prompts[i]) for i in batch])
        processors = LogitsProcessorList()
        if uniforms is not None:
            processors.append(InverseTransform(uniforms[batch], options.temperature))
        with generating_by(config, generator):
            output = generator.generate(
                input_ids=input_ids.to(generator.device),
                attention_mask=attention_mask.to(generator.device),
                generation_config=config,
                logits_processor=processors,
                # Where the weights are sharded every process takes part in every step, its rows ended or not.
                synced_gpus=sharded,
            )
        for index, ids in zip(batch, output[:, length:].tolist(), strict=True):
            responses[index] = ids[: ids.index(eos_token_id) + 1] if eos_token_id in ids else ids
    model.train(was_training)
    return [responses[index] for index in range(len(prompts))]
