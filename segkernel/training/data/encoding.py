"""Token ids of rows of text: preference pairs, prompts, and texts packed into blocks."""

from typing import Any, Protocol

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.columns import BLOCKS, PAIRS
from segkernel.training.data.encoders import PairEncoder, PromptEncoder, TextEncoder
from segkernel.training.data.row_log import RowLog
from segkernel.training.data.rows import PAIR, PROMPT, TEXT
from segkernel.training.data.tables import FlatLists, Rows, flat_lists, to_table, with_columns

__all__ = ["encode_preferences", "encode_prompts", "encode_splits", "encode_texts", "numbered_prompts"]


class Encoder(Protocol):
    """Signature shared by `encode_preferences`, `encode_prompts` and `encode_texts`."""

    def __call__(
        self, rows: Rows, tokenizer: Any, *, max_length: int, name: str, progress: bool, skip_bad_rows: bool
    ) -> Dataset: ...


def encode_splits(
    encode: Encoder,
    train_dataset: Rows,
    eval_dataset: Rows | None,
    tokenizer: PreTrainedTokenizerBase | None,
    max_length: int,
    *,
    progress: bool = False,
    skip_bad_rows: bool = False,
) -> tuple[Dataset, Dataset | None]:
    """Tokenize the training rows and the held-out rows with one of the functions below."""
    options: dict[str, Any] = {"max_length": max_length, "progress": progress, "skip_bad_rows": skip_bad_rows}
    train = encode(train_dataset, tokenizer, name="train_dataset", **options)
    if eval_dataset is None:
        return train, None
    return train, encode(eval_dataset, tokenizer, name="eval_dataset", **options)


def encode_preferences(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    max_length: int,
    name: str = "rows",
    progress: bool = False,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Tokenize preference pairs.

    A response is never cut: its end carries the answer and the EOS. Where prompt and response together exceed
    `max_length`, the prompt loses its oldest tokens; a pair with a response that leaves no room for one prompt token
    is dropped, and so is a pair with identical answers. All are counted and logged, like blank prompts and empty
    responses, which are trained on.

    Rows of messages get the ids of the tokenizer's chat template: the prompt ends with the header of the answer
    (`add_generation_prompt`), and a response is the rest of the whole conversation. In rows of strings, BOS and EOS are
    added unless the text has them (`segkernel.training.data.tokenization`).

    Args:
        rows: a `datasets.Dataset` or mappings, with `prompt`, `chosen`, `rejected`, strings or lists of messages;
            without `prompt`, the answers begin with it (`segkernel.training.data.formats`). Or already tokenized, with
            `prompt_ids`, `chosen_ids`, `rejected_ids`. `chosen_token_rewards`, `chosen_mask` and the same for
            `rejected`, where present, hold one value per token of the response; a list one shorter, written without
            the EOS in mind, has its last value repeated for it. A row without a mask trains on its whole response; if
            one row has token rewards, every row must have them.
        tokenizer: unused, and may be `None`, for rows that hold ids.
        max_length: most tokens of prompt and response together, EOS included.
        name: name of the data in messages.
        progress: whether to show a progress bar.
        skip_bad_rows: whether a row that cannot be used is counted and logged in place of an error.

    Returns:
        Data set with `prompt_ids`, `chosen_ids`, `rejected_ids`, none empty, and those columns
        (`segkernel.training.data.columns.PAIRS`).

    Raises:
        ValueError: no pairs, none that fits, a response or prompt without tokens, a wrong number of values per token,
            rows of messages and a tokenizer without a chat template. Names the row.
    """
    log = RowLog(name, skip_bad_rows=skip_bad_rows)
    texts = PAIR.to_dataset(rows, log)
    if not len(texts) and not log.rows:
        raise ValueError(f"{name}: expected at least one preference pair, got none")
    encoder = PairEncoder(tokenizer, max_length, log, texts)
    encoded = encoder.map(texts, progress)
    if not len(encoded):
        if encoder.longest >= max_length:
            raise ValueError(
                f"max_length: expected more than {encoder.longest} tokens, the longest response of {name}, got "
                f"{max_length}: every pair was dropped"
            )
        raise ValueError(f"{name}: expected at least one pair to train on, got {log.rows} that are all dropped")
    return encoded


def encode_prompts(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    max_length: int,
    name: str = "prompts",
    progress: bool = False,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Tokenize prompts; one longer than `max_length` tokens loses its oldest, which is counted and logged.

    Args:
        rows: a `datasets.Dataset` or mappings, with `prompt` or `question`, a string or a list of messages; or already
            tokenized, with `prompt_ids`.
        tokenizer: unused, and may be `None`, for rows that hold ids.
        max_length: most tokens of a prompt: the context without the response.
        name: name of the data in messages.
        progress: whether to show a progress bar.
        skip_bad_rows: whether a row that cannot be used is counted and logged in place of an error.

    Returns:
        Data set with `prompt_ids`, none empty.

    Raises:
        ValueError: `max_length` below 1, no rows, a prompt without tokens, rows of messages and a tokenizer without a
            chat template. Names the row.
    """
    if max_length < 1:
        raise ValueError(f"max_length: expected at least 1 token, got {max_length}")
    log = RowLog(name, skip_bad_rows=skip_bad_rows)
    encoded = PromptEncoder(tokenizer, max_length, log).map(PROMPT.to_dataset(rows, log), progress)
    if not len(encoded):
        raise ValueError(f"{name}: expected at least one prompt, got none")
    return encoded


def encode_texts(
    rows: Rows,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    name: str = "texts",
    progress: bool = False,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Tokenize texts and pack them into blocks of `max_length` tokens, an EOS after each text that has none.

    Args:
        rows: a `datasets.Dataset` or mappings, with `text`, `messages`, `prompt` and `completion` (strings or
            messages), or `question` and `answer`.
        tokenizer: tokenizer with an EOS.
        max_length: tokens of a block.
        name: name of the data in messages.
        progress: whether to show a progress bar.
        skip_bad_rows: whether a row that cannot be used is counted and logged in place of an error.

    Returns:
        Data set with `input_ids`, at least two in each row.

    Raises:
        ValueError: the tokenizer has no EOS, there are no tokens, or a row cannot be used.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("tokenizer: expected an EOS token, got none")
    log = RowLog(name, skip_bad_rows=skip_bad_rows)
    texts = TEXT.to_dataset(rows, log)
    stream = np.empty(0, dtype=np.int32)
    if len(texts):
        stream = flat_lists(TextEncoder(tokenizer, max_length, log).map(texts, progress), "input_ids").values
    # A block of one token predicts nothing.
    if len(stream) % max_length == 1:
        stream = stream[:-1]
    if not len(stream) or max_length < 2:
        raise ValueError(f"{name}: expected at least 2 tokens, got none to train on")
    lengths = np.diff(np.append(np.arange(0, len(stream), max_length), len(stream)))
    return Dataset.from_dict({"input_ids": FlatLists(stream, lengths).to_arrow()}, features=BLOCKS)


def numbered_prompts(pairs: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
    """Trim prompts to `max_length` tokens, and number the pairs: part of the key of their random numbers."""
    prompts = encode_prompts(pairs, tokenizer, max_length=max_length, name="train_dataset")
    columns = {"prompt_ids": to_table(prompts)["prompt_ids"], "row": np.arange(len(pairs))}
    return with_columns(pairs, columns, PAIRS)
