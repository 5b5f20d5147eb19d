"""Tokenization of prompts and responses: one BOS, one end, and the same text after decoding."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# Texts in front of a response whose tokens are cut off again (`Tokenization.continuations`).
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
        self._special, self._ends = tuple(special), tuple(special - others)
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
        """Token ids of texts that follow prompts, with the space that a tokenizer puts in front of them there.

        After other text there is none, and the ids of prompt and text decode to the text of both; after a special
        token, as in rendered chat templates, it depends on the tokenizer. The ids are found by tokenizing the text
        behind an anchor whose tokens it leaves as they are: the special token, or one of `ANCHORS`.
        """
        found = self.ids(texts)
        if not self._has_dummy_prefix:
            return found
        left = {
            index: self._anchors(prompt)
            for index, (text, prompt) in enumerate(zip(texts, prompts, strict=True))
            if text and prompt
        }
        starts: dict[str, list[int]] = {}
        while left:
            anchors = {index: candidates[0] for index, candidates in left.items()}
            for anchor in set(anchors.values()) - starts.keys():
                starts[anchor] = self.ids([anchor])[0]
            both = self.ids([anchor + texts[index] for index, anchor in anchors.items()])
            for (index, anchor), ids in zip(anchors.items(), both, strict=True):
                start = starts[anchor]
                left[index] = left[index][1:]
                if ids[: len(start)] == start and self.tokenizer.unk_token_id not in start:
                    found[index] = ids[len(start) :]
                    left[index] = ()
            left = {index: candidates for index, candidates in left.items() if candidates}
        return found

    def _anchors(self, prompt: str) -> tuple[str, ...]:
        """Texts to tokenize in front of a response, the best first."""
        ends = [token for token in self._special if prompt.rstrip().endswith(token)]
        return (prompt[prompt.rindex(max(ends, key=len)) :],) if ends else ANCHORS
