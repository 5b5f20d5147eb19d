"""Tokenization of prompts and responses: one BOS, one end, and the same text after decoding."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# Texts whose tokens are cut off again in front of a response (`Tokenization.continuations`).
ANCHORS = ("\n", ".", "a")


class Tokenization:
    """Rules by which a tokenizer's ids of a prompt and of its response are joined.

    Prompt and response are tokenized separately, so the boundary between them is exact whatever the tokenizer would
    merge across it. A prompt opens with the BOS, if the tokenizer opens texts with it, and a response ends with the
    EOS; text that a chat template rendered has its own, and gets no second one.

    Attributes:
        prefix: `[BOS]`, or nothing.
        end: `[EOS]`, or nothing for a tokenizer without one.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        opens = bos is not None and list(tokenizer("")["input_ids"])[:1] == [bos]
        self.prefix: list[int] = [bos] if opens else []
        self.end: list[int] = [] if eos is None else [eos]
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        special |= set(tokenizer.all_special_tokens)
        others = {tokenizer.bos_token, tokenizer.unk_token} - {tokenizer.eos_token}
        self._ends = tuple(special - others)
        # SentencePiece's dummy prefix: a space in front of every text that is tokenized.
        first = tokenizer.convert_ids_to_tokens(self.ids(["b"])[0])[:1]
        self._has_dummy_prefix = bool(first) and first[0].startswith(("▁", "Ġ"))

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts as they are; the names of special tokens in them are special tokens."""
        return list(self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]) if texts else []

    def openings(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts, with the BOS unless the text has it."""
        return [ids if self.prefix and ids[:1] == self.prefix else [*self.prefix, *ids] for ids in self.ids(texts)]

    def responses(self, texts: Sequence[str], prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of responses, with the EOS unless the text ends with a special token, such as `<|im_end|>`."""
        return [
            ids if self.ends(text) else [*ids, *self.end]
            for text, ids in zip(texts, self.continuations(texts, prompts), strict=True)
        ]

    def ends(self, text: str) -> bool:
        """Whether a text ends with a special token; templates may write a line break after it."""
        return text.rstrip().endswith(self._ends)

    def continuations(self, texts: Sequence[str], prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts that follow non-empty prompts: without the dummy prefix that a tokenizer may add.

        The ids of prompt and text together decode to the text of both. They are found by tokenizing the text behind an
        anchor whose tokens it leaves as they are.
        """
        found = self.ids(texts)
        if not self._has_dummy_prefix:
            return found
        left = [index for index, (text, prompt) in enumerate(zip(texts, prompts, strict=True)) if text and prompt]
        for anchor in ANCHORS:
            (start,) = self.ids([anchor])
            if self.tokenizer.unk_token_id in start:
                continue
            for index, ids in zip(tuple(left), self.ids([anchor + texts[index] for index in left]), strict=True):
                if ids[: len(start)] == start:
                    found[index] = ids[len(start) :]
                    left.remove(index)
        return found
