"""Frozen lower layers of a language model, with their outputs cached by text.

Only the layers above are trained, so the lower ones give every training text the same hidden states at each pass. Texts
that are computed together share the states of a common beginning, such as their prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaModel, PreTrainedModel

from benchmarks.experiments.pretrained.prefix_tree import pack


class HiddenStates:
    """LRU cache of the lower layers' outputs: from the token ids of a text to its hidden states `[tokens, H]`.

    Args:
        limit: most tokens of all texts together.
    """

    def __init__(self, limit: int = 500_000) -> None:
        self.found: dict[tuple[int, ...], Tensor] = {}  # the least recently used first
        self.limit, self.tokens = limit, 0

    def __contains__(self, text: tuple[int, ...]) -> bool:
        return text in self.found

    def __getitem__(self, text: tuple[int, ...]) -> Tensor:
        hidden = self.found[text] = self.found.pop(text)
        return hidden

    def __setitem__(self, text: tuple[int, ...], hidden: Tensor) -> None:
        self.found[text] = hidden
        self.tokens += len(text)

    def shrink(self) -> None:
        """Drop the least recently used texts until the rest is within the limit."""
        while self.tokens > self.limit:
            text = next(iter(self.found))
            del self.found[text]
            self.tokens -= len(text)

    def __deepcopy__(self, memo: Any) -> HiddenStates:
        return self  # copies of a model share the frozen layers' outputs


class CachedTrunk(LlamaModel):
    """Llama body whose first `frozen` layers run once per text.

    Generation, which extends texts token by token with cached keys and values, runs all layers.
    """

    frozen: int
    cache: HiddenStates
    products: torch.dtype  # of the matrix products, and of the cached hidden states

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        use_cache: bool | None = None,
        **options: Any,
    ) -> Any:
        inputs = {name: value for name, value in options.items() if value is not None}
        if "inputs_embeds" in inputs:
            raise ValueError("inputs_embeds: expected input_ids, by which hidden states are cached, got embeddings")
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.products == torch.bfloat16):
            # transformers names the keys and values of earlier tokens differently from version to version.
            if use_cache or input_ids is None or {"cache", "past_key_values"} & set(inputs):
                return super().forward(
                    input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache, **inputs
                )
            hidden = self.trunk(input_ids, attention_mask)
            with self.only(slice(self.frozen, None)):
                return super().forward(inputs_embeds=hidden, attention_mask=attention_mask, use_cache=False, **inputs)

    def trunk(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Hidden states after the frozen layers, `[B, T, H]`; 0 at padding."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows = zip(input_ids.tolist(), mask.tolist(), strict=True)
        texts = [tuple(compress(ids, kept)) for ids, kept in rows]
        missing = list(dict.fromkeys(text for text in texts if text not in self.cache))
        if missing:
            self.compute(missing)
        hidden = input_ids.new_zeros(*input_ids.shape, self.config.hidden_size, dtype=self.products)
        hidden[mask.bool()] = torch.cat([self.cache[text] for text in texts])
        self.cache.shrink()
        return hidden

    @torch.no_grad()
    def compute(self, texts: Sequence[tuple[int, ...]]) -> None:
        """Run the frozen layers on texts, once on a beginning that texts share, and store what they give."""
        packed = pack(texts)
        with self.only(slice(0, self.frozen), norm=False):
            output = super().forward(
                input_ids=packed.ids.to(self.device),
                attention_mask=packed.attends[:, None].to(self.device),
                position_ids=packed.positions.to(self.device),
                use_cache=False,
            )
        for text in texts:
            row, places = packed.places[text]
            self.cache[text] = output.last_hidden_state[row, places].to(self.products)

    @contextmanager
    def only(self, layers: slice, *, norm: bool = True) -> Iterator[None]:
        """Run only some layers, with or without the final normalization."""
        whole, last, count = self.layers, self.norm, self.config.num_hidden_layers
        self.layers = nn.ModuleList(list(whole)[layers])
        self.config.num_hidden_layers = len(self.layers)
        if not norm:
            self.norm = nn.Identity()  # type: ignore[assignment]
        try:
            yield
        finally:
            self.layers, self.norm, self.config.num_hidden_layers = whole, last, count


def freeze_trunk(model: PreTrainedModel, cache: HiddenStates, *, trained: int, dtype: torch.dtype) -> None:
    """Train only the last `trained` layers of a Llama, with weights in float32; everything else is frozen in `dtype`.

    Matrix products are in `dtype`, bfloat16 or float32. A head with one output per token stays trainable.
    """
    body: Any = model.base_model
    model.to(dtype).requires_grad_(False)  # type: ignore[arg-type]
    body.__class__ = CachedTrunk
    body.frozen, body.cache, body.products = len(body.layers) - trained, cache, dtype
    upper: list[nn.Module] = [*body.layers[body.frozen :]]
    if isinstance(head := getattr(model, "score", None), nn.Module):
        upper += [body.norm, head]  # the head takes float32
    for module in upper:
        module.float().requires_grad_(True)
