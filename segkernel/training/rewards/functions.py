"""Reward functions in Python, of texts or of batches: their arguments, their return values, and the checks of both.

Function of texts: parameters `prompts` and `responses` (or `completions`, as in TRL), each a list of strings without
special tokens, one per response; `tokens`, if it is a parameter, holds the texts of each response's tokens (list of
lists; joined, they give the response and the text of its end token). All are passed by keyword, and only those that
are parameters. It returns one of:

- one score per response: a list or tensor of numbers, where `None` or NaN is no reward. Methods that reward tokens call
  it with every prefix of the responses: a token's reward is how much it changes the score.
- token rewards: one list per response with a number per token, as many as its `tokens`, end token included. The
  score of a response is their sum.

Function of a batch (`PrefixScorer`): one parameter, a dictionary of tensors `[B, T]`, or `[B, 2, T]` for the chosen and
the rejected response of pairs: `input_ids`, `attention_mask`, `position_ids` (int64), `response_mask`, `loss_mask`
(bool). It returns a real tensor in the shape of `input_ids` (or with pairs as `[2 * B, T]`): at every response token,
and at the last token of the prompt, the score of the text up to there; other entries are not read. A score that is not
finite leaves the response out.

Both are called once on two prompts before anything is sampled, so that a wrong shape is an error at once.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.collators import ResponseCollator
from segkernel.training.data.token_texts import token_texts
from segkernel.training.rewards.prefix_scores import PrefixScorer, last_position
from segkernel.training.trainer.batches import Batch, response_batch

RESPONSES = ("responses", "completions")  # names of the parameter that gets the texts of the responses


def function_scorer(
    function: Callable[..., Any], tokenizer: PreTrainedTokenizerBase | None, *, every_prefix: bool
) -> PrefixScorer:
    """`PrefixScorer` of a reward function.

    Args:
        function: of texts or of a batch, see above.
        tokenizer: decodes the ids for a function of texts.
        every_prefix: whether scores within a response are read, not only that of the whole response.

    Raises:
        TypeError: not a function.
        ValueError: parameters of neither kind, or a function of texts without a tokenizer.
    """
    if not callable(function):
        raise TypeError(f"reward_model: expected a model or a function, got {type(function).__name__}")
    parameters = inspect.signature(function).parameters
    if any(name in parameters for name in RESPONSES):
        if tokenizer is None:
            raise ValueError("processing_class: expected a tokenizer, for the texts of the reward function, got none")
        return TextScorer(function, tokenizer, every_prefix=every_prefix)
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [p.name for p in parameters.values() if p.kind in positional and p.default is p.empty]
    variable = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters.values())
    if len(required) > 1 or not (parameters and (required or variable)):
        raise ValueError(
            "reward_model: expected a function of `prompts` and `responses`, or of one batch, got the parameters "
            f"({', '.join(parameters)})"
        )
    return BatchScorer(function)


class BatchScorer:
    """`PrefixScorer` of a function of batches, with its shape checked."""

    def __init__(self, function: Callable[[Batch], Tensor]) -> None:
        self.function = function

    def __call__(self, batch: Batch) -> Tensor:
        """Scores `[rows, T]`, float32.

        Raises:
            ValueError: the function returns no real tensor in the shape of `input_ids`.
        """
        ids = batch["input_ids"]
        scores: Any = self.function(batch)
        shape = list(ids.shape)
        if not isinstance(scores, Tensor) or scores.is_complex():
            found = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
            raise ValueError(f"reward_model: expected a real tensor {shape}, one score per prefix, got {found}")
        if scores.shape not in (ids.shape, ids.flatten(0, -2).shape):
            raise ValueError(f"reward_model: expected {shape}, one score per prefix, got {list(scores.shape)}")
        return scores.reshape(-1, ids.shape[-1]).to(ids.device, torch.float32)


class TextScorer:
    """`PrefixScorer` of a function of texts."""

    def __init__(self, function: Callable[..., Any], tokenizer: PreTrainedTokenizerBase, *, every_prefix: bool) -> None:
        self.function, self.tokenizer, self.every_prefix = function, tokenizer, every_prefix
        parameters = inspect.signature(function).parameters
        self.takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
        self.names = set(parameters)
        self.special = set(tokenizer.all_special_ids)

    def __call__(self, batch: Batch) -> Tensor:
        """Scores `[rows, T]`, float32; 0 at the positions that are not read.

        Raises:
            ValueError: not one number or list per response, or a list without one number per token.
        """
        ids, mask, attended = (
            batch[name].flatten(0, -2).cpu() for name in ("input_ids", "response_mask", "attention_mask")
        )
        prompts = [self.text(row[kept].tolist()) for row, kept in zip(ids, attended.bool() & ~mask, strict=True)]
        responses = [row[kept].tolist() for row, kept in zip(ids, mask, strict=True)]
        found = self.call(prompts, [self.text(response) for response in responses], responses)
        scores = torch.zeros(ids.shape)
        if all(map(_is_list, found)):
            for row, (rewards, response) in enumerate(zip(found, responses, strict=True)):
                scores[row, mask[row]] = _token_rewards(rewards, len(response), row).cumsum(0)
        elif self.every_prefix:
            before = mask.roll(-1, dims=1)  # positions whose next token is one of the response
            at = mask | before
            counts = at.sum(1).tolist()
            texts = [text for response in responses for text in self.prefixes(response)]
            prefixes = [response[:end] for response in responses for end in range(len(response) + 1)]
            repeated = [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)]
            scores[at] = _numbers(self.call(repeated, texts, prefixes))
        else:
            scores.scatter_(1, last_position(mask)[:, None], _numbers(found)[:, None])
        return scores.to(batch["input_ids"].device)

    def call(self, prompts: list[str], responses: list[str], ids: list[list[int]]) -> list[Any]:
        """Return values of the function, one per response."""
        arguments: dict[str, Any] = {"prompts": prompts, **dict.fromkeys(RESPONSES, responses)}
        if not self.takes_all:
            arguments = {name: values for name, values in arguments.items() if name in self.names}
        if "tokens" in self.names:
            arguments["tokens"] = [token_texts(row, self.tokenizer) for row in ids]
        found = self.function(**arguments)
        if not hasattr(found, "__len__") or isinstance(found, str) or len(found) != len(responses):
            got = len(found) if hasattr(found, "__len__") and not isinstance(found, str) else type(found).__name__
            raise ValueError(f"reward_model: expected {len(responses)} scores, one per response, got {got}")
        values = list(found)
        if len(set(map(_is_list, values))) > 1:
            raise ValueError("reward_model: expected a score for each response, or a list for each, got both")
        return values

    def text(self, ids: list[int]) -> str:
        """Text of these ids without special tokens."""
        return str(self.tokenizer.decode([token for token in ids if token not in self.special]))

    def prefixes(self, ids: list[int]) -> list[str]:
        """Texts of the first 0, 1, ... tokens of a response, without special tokens."""
        pieces = iter(token_texts([token for token in ids if token not in self.special], self.tokenizer))
        texts = [""]
        for token in ids:
            texts.append(texts[-1] if token in self.special else texts[-1] + next(pieces))
        return texts


def check_scorer(
    scorer: PrefixScorer, prompts: Sequence[list[int]], collator: ResponseCollator, device: torch.device
) -> None:
    """Call a reward function on two prompts, each with its own last tokens as the response.

    Raises:
        ValueError: it returns a wrong shape.
    """
    if isinstance(scorer, (BatchScorer, TextScorer)):
        responses = [ids[-length:] for ids, length in zip(prompts, (1, 2), strict=False)]
        with torch.no_grad():
            scorer(response_batch(prompts[:2], responses, collator, device))


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0


def _numbers(values: Sequence[Any]) -> Tensor:
    try:
        return torch.tensor([float("nan") if value is None else float(value) for value in values])
    except (TypeError, ValueError):
        wrong = next(value for value in values if not hasattr(value, "__float__"))
        raise ValueError(f"reward_model: expected numbers, got {type(wrong).__name__}") from None


def _token_rewards(rewards: Sequence[Any], tokens: int, row: int) -> Tensor:
    if len(rewards) != tokens:
        raise ValueError(
            f"reward_model: expected {tokens} token rewards for response {row}, one per token, got {len(rewards)}"
        )
    return _numbers(rewards)
