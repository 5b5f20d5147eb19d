"""Incremental detokenization by tokenizers of every common kind."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.token_texts import token_texts
from tests.training.tokenizers import sentencepiece, wordpiece
from tests.training.trainer_helpers import tiny_tokenizer

# A ZWJ sequence, a combining accent, CJK, control characters, the replacement character itself.
HARD = "é naïve 東京 😀 👨‍👩‍👧 e\u0301\r\n\0 \ufffd <b>red</b>"


TOKENIZERS = {"byte_level": tiny_tokenizer(), "sentencepiece": sentencepiece(), "wordpiece": wordpiece()}


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_token_texts_give_a_split_character_to_the_token_that_completes_it(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = [*tokenizer("red東", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    end = tokenizer.eos_token
    texts = token_texts(ids, tokenizer)
    assert texts[-4:] == ["", "", "東", end]
    assert "".join(texts) == f"red東{end}"


def test_token_texts_of_wordpieces_have_the_spaces_of_the_decoder() -> None:
    tokenizer = TOKENIZERS["wordpiece"]
    assert token_texts(tokenizer("redly blue, do")["input_ids"], tokenizer) == ["red", "ly", " blue", ",", " do"]


def test_token_texts_keep_the_space_of_a_metaspace_piece() -> None:
    tokenizer = TOKENIZERS["sentencepiece"]
    ids = tokenizer.convert_tokens_to_ids(["▁red", "▁blue", "▁", "▁red", "</s>", "▁blue"])
    assert token_texts(ids, tokenizer) == ["red", " blue", " ", " red", "</s>", " blue"]


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", [HARD, "red", ""])
def test_token_texts_join_to_the_decoded_text(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer(text)["input_ids"]
    texts = token_texts(ids, tokenizer)
    assert len(texts) == len(ids)
    assert "".join(texts) == tokenizer.decode(ids)
    if kind == "byte_level":
        assert "".join(texts) == text


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(data=st.data())
def test_token_texts_join_to_the_decoded_text_of_any_tokens(kind: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=40))
    texts = token_texts(ids, tokenizer)
    assert len(texts) == len(ids)
    assert "".join(texts) == tokenizer.decode(ids)


class Counter:
    """Tokenizer that counts the tokens it decodes."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self.tokens = tokenizer, 0

    def decode(self, ids: list[int]) -> Any:
        self.tokens += len(ids)
        return self.tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("kind", "tokens", "last"),
    [
        ("byte_level", ["red", "Ġblue"], []),
        ("byte_level", ["à"], []),  # 0xE0 by itself is no character
        ("sentencepiece", ["<0xE6>", "<0x9D>", "<0xB1>"], []),
        ("sentencepiece", ["<0xE6>", "<0x9D>", "<0xB1>"], ["<0xFF>"]),  # makes the whole run undecodable
        ("sentencepiece", ["▁", "</s>"], []),
        ("wordpiece", ["red", "##ly"], []),
    ],
)
def test_token_texts_decode_linearly_many_tokens(kind: str, tokens: list[str], last: list[str]) -> None:
    tokenizer = TOKENIZERS[kind]
    counts = []
    for length in (200, 400):
        ids = tokenizer.convert_tokens_to_ids([*(tokens * (length // len(tokens))), *last])
        counter: Any = Counter(tokenizer)
        token_texts(ids, counter)
        counts.append(counter.tokens)
    assert counts[1] <= 20 * 400
    assert counts[1] <= 2.5 * counts[0]
