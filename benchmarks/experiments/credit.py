"""Credit per token: what a policy was trained on, and which way it moved each part, against the known truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import segkernel
from examples.capitals.pairs import Pair
from examples.capitals.task import prompt_text, token_credit
from segkernel.training.data.columns import SEQUENCE_SIGNS, SIDES


class TrainedResponse(NamedTuple):
    """A training response: loss mask, true credit per token, and the sign of its verdict (+1 chosen, -1 rejected)."""

    mask: Sequence[bool]
    credit: Sequence[int]
    sign: int


def responses_of_pairs(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], pairs: Sequence[Pair]
) -> list[TrainedResponse]:
    """Both sides of every pair with the masks of the trainer's rows; without a mask every token counts."""
    responses = []
    for row, pair in zip(rows, pairs, strict=True):
        for side, sign in zip(SIDES, SEQUENCE_SIGNS, strict=True):
            tokens = tokenizer.convert_ids_to_tokens(row[f"{side}_ids"])
            mask = row.get(f"{side}_mask", [True] * len(tokens))
            responses.append(TrainedResponse(mask, token_credit(tokens, pair.right(side)), sign))
    return responses


def mask_agreement(responses: Iterable[TrainedResponse]) -> tuple[float, float, float]:
    """Share of tokens trained on, agreement of the mask with the true credit, and the agreement of a full mask.

    A mask agrees where it keeps exactly the tokens whose credit has the sign of their response's verdict.

    Example:
        >>> mask_agreement([TrainedResponse([True, True, False, False], [1, -1, -1, -1], +1)])
        (0.5, 0.75, 0.25)
    """
    kept = agree = everything = total = 0
    for mask, credit, sign in responses:
        for trained, true in zip(mask, credit, strict=True):
            kept += trained
            agree += trained == (true == sign)
            everything += true == sign
            total += 1
    return kept / total, agree / total, everything / total


@torch.no_grad()
def response_logprobs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]
) -> list[list[list[float]]]:
    """Log-probability of every token of both answers of every pair, chosen first."""
    model.eval()
    prompts = [tokenizer(prompt_text(pair.countries))["input_ids"] for pair in pairs for _ in SIDES]
    answers = [tokenizer(text)["input_ids"] for pair in pairs for text in (pair.chosen, pair.rejected)]
    rows = [torch.tensor([*prompt, *answer]) for prompt, answer in zip(prompts, answers, strict=True)]
    ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    logits = model(input_ids=ids, attention_mask=mask).logits
    logprobs = segkernel.token_logprobs(logits[:, :-1], ids[:, 1:], mask[:, 1:])
    found = [
        row[len(prompt) - 1 : len(prompt) - 1 + len(answer)].tolist()
        for row, prompt, answer in zip(logprobs, prompts, answers, strict=True)
    ]
    return [list(both) for both in zip(found[::2], found[1::2], strict=True)]


def part_logprobs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]
) -> list[list[float]]:
    """Log-probability of every part of every pair, chosen answer first."""
    # Cities sit at every other token of an answer.
    return [chosen[::2] + rejected[::2] for chosen, rejected in response_logprobs(model, tokenizer, pairs)]


def moved_right(before: list[list[float]], after: list[list[float]], pairs: Sequence[Pair]) -> float:
    """Share of parts whose probability moved in the right direction: up where right, down where wrong.

    Example:
        >>> pair = Pair(("Peru", "Iran"), chosen="Lima; Baghdad; ", rejected="Cusco")
        >>> moved_right([[-1.0, -1.0, -1.0]], [[-0.5, -0.5, -2.0]], [pair])
        0.6666666666666666
    """
    good = [
        (new > old) if right else (new < old)
        for pair, olds, news in zip(pairs, before, after, strict=True)
        for old, new, right in zip(olds, news, pair.right("chosen") + pair.right("rejected"), strict=True)
    ]
    return sum(good) / len(good)
