"""True credit of the tokens of observed batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from benchmarks.experiments.policies.credit import TrainedResponse
from benchmarks.experiments.policies.rollouts import Batch, response_rows
from examples.capitals.pairs import is_well_formed
from examples.capitals.task import EOS, QUESTION, SEPARATOR, grade, token_credit
from segkernel.training.data.columns import SEQUENCE_SIGNS


def graded_pairs(tokenizer: PreTrainedTokenizerBase, batch: Batch) -> list[TrainedResponse]:
    """Both responses of every pair of a batch, with the tokens `selected`; they may be cut off."""
    return [
        graded(tokenizer, prompt, response, mask, SEQUENCE_SIGNS[index % 2])
        for index, (prompt, response, mask) in enumerate(response_rows(batch, "selected"))
    ]


def graded_samples(
    tokenizer: PreTrainedTokenizerBase, batch: Batch, mask: str, sign_of: Callable[[int], int]
) -> list[TrainedResponse]:
    """Well-formed responses of a batch; `sign_of` maps the number of a row to the sign of its verdict."""
    return [
        graded(tokenizer, prompt, response, kept, sign_of(row))
        for row, (prompt, response, kept) in enumerate(response_rows(batch, mask))
        if well_formed(tokenizer, prompt, response)
    ]


def well_formed(tokenizer: PreTrainedTokenizerBase, prompt: list[int], response: list[int]) -> bool:
    return is_well_formed(without_eos(tokens_of(tokenizer, response)), len(countries_of(tokenizer, prompt)))


def graded(
    tokenizer: PreTrainedTokenizerBase, prompt: list[int], response: list[int], mask: Sequence[bool], sign: int
) -> TrainedResponse:
    """A response with its mask and true credit."""
    tokens = tokens_of(tokenizer, response)
    right = grade(countries_of(tokenizer, prompt), "".join(without_eos(tokens)))
    return TrainedResponse(mask, token_credit(tokens, right), sign)


def countries_of(tokenizer: PreTrainedTokenizerBase, prompt: list[int]) -> list[str]:
    return str(tokenizer.decode(prompt)).removesuffix(QUESTION).split(SEPARATOR)


def tokens_of(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    return [str(token) for token in tokenizer.convert_ids_to_tokens(ids)]


def without_eos(tokens: list[str]) -> list[str]:
    return tokens[:-1] if tokens[-1:] == [EOS] else tokens
