"""Incremental detokenization: the text that every token of a response adds."""

from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from segkernel.training.data.prefixes import common_prefix_length

__all__ = ["token_texts"]

# Most tokens that share one character: UTF-8 has at most four bytes per character.
TOKENS_PER_CHARACTER = 4


def token_texts(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Text that each token adds to the text before it.

    The texts joined are `tokenizer.decode(ids)`, special tokens included. A character that is split over several tokens
    belongs to the token that completes it; the texts of the others are empty. The number of tokens that are decoded
    grows linearly with `len(ids)`.

    Args:
        ids: token ids of a response.
        tokenizer: byte-level, SentencePiece-like or WordPiece-like; fast or slow.

    Returns:
        One string per token.

    Example:
        >>> from segkernel.training.models import train_tokenizer
        >>> tokenizer = train_tokenizer(["so"], vocab_size=258)
        >>> token_texts(tokenizer("so é")["input_ids"], tokenizer)
        ['s', 'o', ' ', '', 'é']
    """
    whole = str(tokenizer.decode(ids))
    ends = [0]  # end of the text of the tokens so far, in `whole`
    # The text of a token depends on the tokens before it, so a window holds a context, `ids[start:done]`. Its text is
    # cut off again; the rest of the window must continue `whole` from `ends[done]`.
    start = done = context = 0
    for end in range(1, len(ids) + 1):
        pending = end - done
        # Powers of two keep the cost of a long run without text linear.
        if pending <= TOKENS_PER_CHARACTER or pending.bit_count() == 1:
            text = str(tokenizer.decode(ids[start:end]))[context:]
            agreed = common_prefix_length(text, whole[ends[done] : ends[done] + len(text)])
            ends.append(max(ends[-1], ends[done] + agreed))
            if text and agreed == len(text):
                start, done = done, end
                context = len(str(tokenizer.decode(ids[start:done])))
        else:
            ends.append(ends[-1])
    ends[-1] = len(whole)
    return [whole[first:last] for first, last in pairwise(ends)]
