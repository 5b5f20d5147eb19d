"""Cache of the keys and values of prompts, computed once where rows of a batch share a prompt or its beginning.

Several responses to one prompt are rows that share all of it. A system prompt or chat template is a shared beginning.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

FEWEST = 16  # tokens of a beginning for which a pass of its own pays
Read = Callable[[Tensor, Tensor, Any], Any]


def shared_cache(ids: Tensor, mask: Tensor, read: Read) -> Any:
    """The cache of the first columns of left-padded prompts, with a row for every prompt.

    It has all columns but the last if prompts are repeated, else those of their common beginning.

    Args:
        ids: token ids `[B, T]`, int64.
        mask: attention mask `[B, T]`, int64.
        read: the model's cache after it has read ids under a mask, from the cache of their first columns, or `None`.

    Returns:
        The cache; `None` where nothing is shared, or where rows of the model's cache cannot be copied.
    """
    padding = -1
    distinct, rows = torch.unique(ids.masked_fill(mask == 0, padding), dim=0, return_inverse=True)
    kept = (distinct != padding).long()
    texts = distinct.clamp(min=0)  # padding is masked, so any id will do
    pads = ids.shape[1] - kept.sum(dim=1)
    cache, columns = None, 0
    if len(distinct) > 1 and (beginning := common_beginning(texts, pads)).shape[1] >= FEWEST:
        columns = beginning.shape[1]
        cache = read(beginning, torch.ones_like(beginning), None)
        if not has_layers(cache, DynamicLayer):
            return None
        place(cache, pads)
    if len(distinct) < len(ids) and columns < ids.shape[1] - 1:
        cache = read(texts[:, :-1], kept[:, :-1], cache)
    if cache is None or not selects_rows(cache):
        return None
    cache.batch_select_indices(rows)
    return cache


def common_beginning(texts: Tensor, pads: Tensor) -> Tensor:
    """The first tokens that left-padded texts `[B, T]` share, `[1, shared]`; at least one of each text is left out."""
    longest = texts.shape[1] - int(pads.max()) - 1
    first = texts.gather(1, pads[:, None] + torch.arange(longest, device=texts.device))
    same = (first == first[0]).all(dim=0).long().cumprod(dim=0)
    return first[:1, : int(same.sum())]


def place(cache: DynamicCache, pads: Tensor) -> None:
    """Copy the one row of a cache to rows that begin with padding, `pads` `[B]` columns; the last columns fall away."""

    def placed(row: Tensor | None) -> Tensor:
        assert row is not None
        columns = torch.arange(row.shape[2], device=pads.device) - pads[:, None]
        source = columns.clamp(min=0).to(row.device)  # at padding, which is masked, any column will do
        return row[0][:, source].transpose(0, 1).contiguous()

    for layer in cache.layers:
        assert isinstance(layer, DynamicLayer)
        layer.keys, layer.values = placed(layer.keys), placed(layer.values)


def selects_rows(cache: Any) -> bool:
    """Whether rows of a cache can be selected. Those of linear attention, for example, have states that stay."""
    return has_layers(cache, DynamicLayer, DynamicSlidingWindowLayer)


def has_layers(cache: Any, *kinds: type) -> bool:
    """Whether a cache has layers of these classes only."""
    return isinstance(cache, DynamicCache) and all(type(layer) in kinds for layer in cache.layers)
