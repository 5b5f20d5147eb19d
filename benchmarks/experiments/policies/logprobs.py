"""Log-probabilities of responses under a policy, and its divergence from the start model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

import segkernel
from segkernel.training.data.columns import SIDES

Ids = Sequence[int]
PairLogprobs = tuple[list[float], list[float]]
PairMasks = tuple[Sequence[bool], Sequence[bool]]


class Batch(NamedTuple):
    """Right-padded prompts with their responses: ids and attention mask `[B, T]`, response mask `[B, T - 1]`.

    Position `t` of the response mask belongs to the token at `t + 1`, which the logits at `t` predict.
    """

    ids: Tensor
    attention: Tensor
    response: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(*(values.to(device) for values in self))


def batches(prompts: Sequence[Ids], responses: Sequence[Ids], size: int) -> Iterator[Batch]:
    """Batches of at most `size` rows, in order, on the CPU."""
    for first in range(0, len(prompts), size):
        rows = list(zip(prompts[first : first + size], responses[first : first + size], strict=True))
        ids = [torch.tensor([*prompt, *response]) for prompt, response in rows]
        lengths = torch.tensor([len(row) for row in ids])
        starts = torch.tensor([len(prompt) for prompt, _ in rows])
        padded = pad_sequence(ids, batch_first=True)
        places = torch.arange(padded.shape[1])
        attention = places < lengths[:, None]
        yield Batch(padded, attention.long(), (attention & (places >= starts[:, None]))[:, 1:])


def response_logits(model: Any, batch: Batch) -> Tensor:
    """Logits that predict the tokens of the responses, `[tokens, V]`. The head runs at no other position."""
    hidden = model.base_model(input_ids=batch.ids, attention_mask=batch.attention).last_hidden_state
    logits: Tensor = model.get_output_embeddings()(hidden[:, :-1][batch.response])
    return logits


@torch.no_grad()
def response_logprobs(
    model: PreTrainedModel, prompts: Sequence[Ids], responses: Sequence[Ids], *, batch_size: int = 1024
) -> list[list[float]]:
    """Log-probability of every token of each response, in nats."""
    model.eval()
    found = []
    for batch in batches(prompts, responses, batch_size):
        read = batch.to(model.device)
        logprobs = segkernel.token_logprobs(response_logits(model, read), read.ids[:, 1:][read.response])
        found += [row.tolist() for row in logprobs.cpu().split(batch.response.sum(dim=1).tolist())]
    return found


@torch.no_grad()
def divergence(
    policy: PreTrainedModel,
    start: PreTrainedModel,
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    *,
    batch_size: int = 1024,
) -> float:
    """KL divergence of the policy from the start model, in nats per response, on responses sampled from the policy.

    The sum over a response's tokens of the divergence between both next-token distributions. Its expectation is that
    of the log-ratio of the sampled tokens, and its variance is smaller.
    """
    policy.eval()
    start.eval()
    total = 0.0
    for batch in batches(prompts, responses, batch_size):
        batch = batch.to(policy.device)
        new, old = (response_logits(model, batch).float() for model in (policy, start))
        new, old = new.log_softmax(-1), old.log_softmax(-1)
        total += float((new.exp() * (new - old)).sum(dtype=torch.float64))
    return total / len(responses)


def pair_logprobs(
    model: PreTrainedModel, pairs: Sequence[Mapping[str, Any]], *, batch_size: int = 1024
) -> list[PairLogprobs]:
    """Log-probability of every token of both responses of every pair, chosen first. Rows have ids per side."""
    prompts = [pair["prompt_ids"] for pair in pairs for _ in SIDES]
    responses = [pair[f"{side}_ids"] for pair in pairs for side in SIDES]
    found = response_logprobs(model, prompts, responses, batch_size=batch_size)
    return list(zip(found[::2], found[1::2], strict=True))


def preference_accuracy(
    before: Sequence[PairLogprobs], after: Sequence[PairLogprobs], masks: Sequence[PairMasks | None] | None = None
) -> float:
    """Share of pairs whose chosen response gained more log-probability than its rejected one.

    Args:
        before: log-probabilities of the pairs' tokens under the start model.
        after: the same under the policy.
        masks: tokens that count; without masks, the whole responses.

    Example:
        >>> before, after = [([-1.0, -1.0], [-1.0])], [([-0.5, -2.0], [-1.25])]
        >>> preference_accuracy(before, after), preference_accuracy(before, after, [([True, False], [True])])
        (0.0, 1.0)
    """
    masks = [None] * len(before) if masks is None else masks
    right = 0
    for old, new, mask in zip(before, after, masks, strict=True):
        chosen, rejected = (gained(old[side], new[side], mask and mask[side]) for side in (0, 1))
        right += chosen > rejected
    return right / len(before)


def gained(old: Sequence[float], new: Sequence[float], mask: Sequence[bool] | None) -> float:
    """Log-probability gained by the tokens under the mask; without a mask, by all tokens.

    Example:
        >>> gained([-1.0, -1.0], [-0.5, -2.0], None), gained([-1.0, -1.0], [-0.5, -2.0], [True, False])
        (-0.5, 0.5)
    """
    counts = [True] * len(old) if mask is None else mask
    return sum(after - before for before, after, kept in zip(old, new, counts, strict=True) if kept)
