"""From rows of text to token ids: where a response starts, and how it ends.

A prompt and its response are tokenised apart and joined as ids, so the boundary between them is exact whatever the
tokenizer would merge across it. A response ends with the tokenizer's EOS.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from segkernel.training.data.collators import PER_PAIR, PER_TOKEN
from segkernel.training.data.readers import SIDES

__all__ = ["encode_preferences", "encode_prompts", "encode_splits", "encode_texts", "token_texts"]

logger = logging.getLogger(__name__)


def encode_splits(
    encode: Callable[..., list[dict[str, Any]]],
    train_dataset: Iterable[Mapping[str, Any]],
    eval_dataset: Iterable[Mapping[str, Any]] | None,
    tokenizer: PreTrainedTokenizerBase | None,
    max_length: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Tokenise what is trained on and what is held out, by one of the functions below; rows of ids stay as they are."""
    train = encode(train_dataset, tokenizer, max_length=max_length, name="train_dataset")
    if eval_dataset is None:
        return train, None
    return train, encode(eval_dataset, tokenizer, max_length=max_length, name="eval_dataset")


def encode_preferences(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    max_length: int,
    name: str = "rows",
) -> list[dict[str, Any]]:
    """Tokenise preference pairs.

    A response is never cut: its end carries the answer and the EOS. Where prompt and response together exceed
    `max_length`, the prompt loses its oldest tokens; a pair with a response that leaves no room for one prompt token
    is dropped. Both are counted and logged.

    Args:
        rows: mappings with `prompt`, `chosen`, `rejected` strings; or already tokenised, with `prompt_ids`,
            `chosen_ids`, `rejected_ids`. `chosen_token_rewards`, `chosen_mask` and the same for `rejected`, where
            present, hold one value per token of the response; a list one shorter, written without the EOS in mind,
            has its last value repeated for it.
        tokenizer: unused, and may be `None`, for rows that hold ids.
        max_length: most tokens of prompt and response together, EOS included.
        name: what messages call the data.

    Returns:
        Dicts with `prompt_ids`, `chosen_ids`, `rejected_ids` (lists of int, none empty) and those columns.

    Raises:
        ValueError: no pairs, none that fits, a pair with identical answers, or a response or prompt
            without tokens.
    """
    rows = list(rows)
    if not rows:
        raise ValueError(f"{name}: expected at least one preference pair, got none")
    encoded, trimmed, longest = [], 0, 0
    for index, row in enumerate(rows):
        where = f"{name}: the pair of line {row['line']}" if "line" in row else f"{name}[{index}]"
        pair = _pair_of_ids(row, tokenizer, where)
        response = max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))
        longest = max(longest, response)
        room = max_length - response
        if room < 1:
            continue
        if len(pair["prompt_ids"]) > room:
            pair["prompt_ids"] = _trim_left(pair["prompt_ids"], room, tokenizer)
            trimmed += 1
        encoded.append(pair)
    if not encoded:
        raise ValueError(
            f"{name}: no pair fits max_length={max_length}: with the prompt it would be all mask, no response token "
            f"left (the longest response has {longest} tokens)"
        )
    if dropped := len(rows) - len(encoded):
        logger.warning(
            "%s: dropped %d of %d pairs: a response exceeds max_length=%d", name, dropped, len(rows), max_length
        )
    if trimmed:
        logger.warning("%s: trimmed %d prompts from the left to fit max_length=%d", name, trimmed, max_length)
    return encoded


def encode_prompts(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    max_length: int,
    name: str = "prompts",
) -> list[dict[str, list[int]]]:
    """Tokenise prompts; one longer than `max_length` tokens loses its oldest, which is counted and logged.

    Args:
        rows: mappings with a `prompt` string; or already tokenised, with `prompt_ids`.
        tokenizer: unused, and may be `None`, for rows that hold ids.
        max_length: most tokens of a prompt: what the context leaves beside the response.
        name: what messages call the data.

    Returns:
        Dicts with `prompt_ids`, none empty.

    Raises:
        ValueError: `max_length` below 1, no rows, or a prompt without tokens.
    """
    if max_length < 1:
        raise ValueError(f"max_length: expected at least 1 token, got {max_length}")
    encoded, trimmed = [], 0
    for index, row in enumerate(rows):
        where = f"{name}: the prompt of line {row['line']}" if "line" in row else f"{name}[{index}]"
        if "prompt_ids" in row:
            ids = list(row["prompt_ids"])
        elif tokenizer is None:
            raise ValueError(f"{where}: expected 'prompt_ids', or a tokenizer for the string")
        else:
            ids = [*_prefix_ids(tokenizer), *_ids(row["prompt"], tokenizer)]
        if not ids:
            raise ValueError(f"{where}: expected at least one token, got none")
        if len(ids) > max_length:
            ids = _trim_left(ids, max_length, tokenizer)
            trimmed += 1
        encoded.append({"prompt_ids": ids})
    if not encoded:
        raise ValueError(f"{name}: expected at least one prompt, got none")
    if trimmed:
        logger.warning("%s: trimmed %d prompts from the left to %d tokens", name, trimmed, max_length)
    return encoded


def encode_texts(
    rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, *, max_length: int, name: str = "texts"
) -> list[dict[str, list[int]]]:
    """Tokenise texts and pack them into blocks of `max_length` tokens, each text closed by the EOS.

    Raises:
        ValueError: the tokenizer has no EOS, or there are no tokens.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("tokenizer: expected an EOS token, got none")
    start, stream = _prefix_ids(tokenizer), []
    for row in rows:
        stream += [*start, *_ids(row["prompt"], tokenizer), *_ids(row["completion"], tokenizer), tokenizer.eos_token_id]
    blocks = [stream[first : first + max_length] for first in range(0, len(stream), max_length)]
    # A block of one token predicts nothing.
    rows_of_ids = [{"input_ids": block} for block in blocks if len(block) > 1]
    if not rows_of_ids:
        raise ValueError(f"{name}: expected at least 2 tokens, got none to train on")
    return rows_of_ids


def token_texts(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What each token adds to the text so far; a token's text on its own may lose its leading space."""
    texts = [str(tokenizer.decode(ids[:count])) for count in range(len(ids) + 1)]
    return [text[len(before) :] for before, text in pairwise(texts)]


def _pair_of_ids(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase | None, where: str) -> dict[str, Any]:
    if "prompt_ids" in row:
        pair = {name: list(row[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")}
    elif tokenizer is None:
        raise ValueError(
            f"{where}: expected 'prompt_ids', 'chosen_ids', 'rejected_ids', or a tokenizer for the strings"
        )
    else:
        pair = {"prompt_ids": [*_prefix_ids(tokenizer), *_ids(row["prompt"], tokenizer)]}
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        for side in SIDES:
            pair[f"{side}_ids"] = [*_ids(row[side], tokenizer), *end]
        if not pair["prompt_ids"] and end:
            # The first response token needs a token to be predicted from.
            pair["prompt_ids"] = end
    if not pair["prompt_ids"]:
        raise ValueError(f"{where}: the prompt has no tokens, so nothing predicts the first token of a response")
    for side in SIDES:
        if not pair[f"{side}_ids"]:
            raise ValueError(f"{where}: 'chosen' and 'rejected' need a token each; {side!r} is all mask")
        for name in PER_TOKEN:
            if row.get(f"{side}_{name}") is not None:
                values = list(row[f"{side}_{name}"])
                pair[f"{side}_{name}"] = _one_per_token(values, len(pair[f"{side}_ids"]), f"{side}_{name}", where)
    pair |= {name: row[name] for name in PER_PAIR if name in row}
    if pair["chosen_ids"] == pair["rejected_ids"]:
        raise ValueError(f"{where}: 'chosen' and 'rejected' are identical, so the pair prefers nothing")
    return pair


def _one_per_token(values: list[Any], tokens: int, name: str, where: str) -> list[Any]:
    if values and len(values) == tokens - 1:
        return [*values, values[-1]]
    if len(values) != tokens:
        raise ValueError(
            f"{where}: {name}: expected {tokens} values, one per token (or one fewer: without the EOS), "
            f"got {len(values)}"
        )
    return values


def _trim_left(prompt_ids: list[int], room: int, tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    start = _prefix_ids(tokenizer) if tokenizer is not None else []
    if start and prompt_ids[: len(start)] == start and room > len(start):
        return [*start, *prompt_ids[len(prompt_ids) - room + len(start) :]]
    return prompt_ids[len(prompt_ids) - room :]


def _ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _prefix_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """`[BOS]` where this tokenizer opens a text with it, else nothing."""
    opens = tokenizer.bos_token_id is not None and list(tokenizer("")["input_ids"])[:1] == [tokenizer.bos_token_id]
    return [tokenizer.bos_token_id] if opens else []
