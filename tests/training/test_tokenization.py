"""Ids of prompts and responses: one BOS, one end, the ids of the chat template, the text after decoding."""

from typing import Any

import pytest

from segkernel.training.data.encoding import encode_preferences, encode_prompts, encode_texts
from tests.training.tokenizers import chatml, phi, sentencepiece, wordpiece
from tests.training.trainer_helpers import tiny_tokenizer

Row = dict[str, Any]

TEMPLATED = {"chatml": chatml(), "sentencepiece": sentencepiece(), "phi": phi()}
USER = [{"role": "user", "content": "red?"}]


def assistant(text: str) -> list[Row]:
    return [{"role": "assistant", "content": text}]


def template_ids(tokenizer: Any, messages: list[Row], **options: Any) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
    return ids


def encoded(tokenizer: Any, row: Row) -> Row:
    found: Row = encode_preferences([row], tokenizer, max_length=512)[0]
    return found


@pytest.mark.parametrize("kind", TEMPLATED)
@pytest.mark.parametrize("answer", ["red", "", "東京 red", "\n\nred", "  red "])
def test_messages_have_the_ids_of_the_chat_template(kind: str, answer: str) -> None:
    tokenizer = TEMPLATED[kind]
    row = encoded(tokenizer, {"prompt": USER, "chosen": assistant(answer), "rejected": assistant("blue blue")})
    assert row["prompt_ids"] == template_ids(tokenizer, USER, add_generation_prompt=True)
    for side, text in (("chosen", answer), ("rejected", "blue blue")):
        assert row["prompt_ids"] + row[f"{side}_ids"] == template_ids(tokenizer, USER + assistant(text))


@pytest.mark.parametrize("kind", TEMPLATED)
def test_templated_strings_have_the_ids_of_the_chat_template(kind: str) -> None:
    tokenizer = TEMPLATED[kind]
    prompt = tokenizer.apply_chat_template(USER, tokenize=False, add_generation_prompt=True)
    wholes = {
        side: tokenizer.apply_chat_template(USER + assistant(text), tokenize=False)
        for side, text in (("chosen", "red"), ("rejected", "blue"))
    }
    texts = {side: whole[len(prompt) :] for side, whole in wholes.items()}
    row = encoded(tokenizer, {"prompt": prompt, **texts})
    messages = {"prompt": USER, "chosen": assistant("red"), "rejected": assistant("blue")}
    assert row == encoded(tokenizer, messages)
    assert row["prompt_ids"] + row["chosen_ids"] == template_ids(tokenizer, USER + assistant("red"))
    assert encode_prompts([{"prompt": prompt}], tokenizer, max_length=512)[0]["prompt_ids"] == row["prompt_ids"]
    # The whole text in one string, in two, and as messages.
    for text in (
        {"text": wholes["chosen"]},
        {"prompt": prompt, "completion": texts["chosen"]},
        {"messages": USER + assistant("red")},
        {"prompt": USER, "completion": assistant("red")},
    ):
        (block,) = encode_texts([text], tokenizer, max_length=512)["input_ids"]
        assert block == template_ids(tokenizer, USER + assistant("red")), text


@pytest.mark.parametrize("text", ["red", "red</s>", "red</s>\n", "<s>red", "<s>red</s>"])
def test_plain_texts_have_one_bos_and_one_eos(text: str) -> None:
    tokenizer = sentencepiece()
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    (block,) = encode_texts([{"text": text}], tokenizer, max_length=512)["input_ids"]
    assert (block.count(bos), block[0]) == (1, bos)
    assert block.count(eos) == 1
    completion = text.removeprefix("<s>")
    row = encoded(tokenizer, {"prompt": "<s>blue", "chosen": completion, "rejected": "blue"})
    assert (row["prompt_ids"].count(bos), row["prompt_ids"][0]) == (1, bos)
    assert row["chosen_ids"].count(eos) == 1
    assert row["rejected_ids"][-1] == eos


@pytest.mark.parametrize("make", [tiny_tokenizer, sentencepiece])
@pytest.mark.parametrize("response", ["red", " red", "\nred", ".red", "é", "\nred\n"])
@pytest.mark.parametrize("prompt", ["blue?", "blue\n", "blue "])
def test_prompt_and_response_decode_to_their_texts(make: Any, prompt: str, response: str) -> None:
    tokenizer = make()
    row = encoded(tokenizer, {"prompt": prompt, "chosen": response, "rejected": "other"})
    ids = row["prompt_ids"] + row["chosen_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == prompt + response


def test_response_of_wordpieces_keeps_its_ids() -> None:
    tokenizer = wordpiece()
    row = encoded(tokenizer, {"prompt": "redly", "chosen": "blue.", "rejected": "red"})
    assert tokenizer.convert_ids_to_tokens(row["chosen_ids"]) == ["blue", ".", "[SEP]"]


def test_answer_that_merges_with_its_header_is_tokenized_separately() -> None:
    tokenizer = tiny_tokenizer()
    # "say" is one token; here the header ends with its first letter.
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}{{ message['content'] }} s"
        "{% else %}{{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    whole = template_ids(tokenizer, USER + assistant("ay"))
    prompt = template_ids(tokenizer, USER, add_generation_prompt=True)
    assert whole[: len(prompt)] != prompt
    row = encoded(tokenizer, {"prompt": USER, "chosen": assistant("ay"), "rejected": assistant("red")})
    assert row["prompt_ids"] == prompt
    assert row["chosen_ids"] == [*tokenizer("ay")["input_ids"], tokenizer.eos_token_id]


def test_tools_and_template_arguments_reach_the_chat_template() -> None:
    tokenizer, tools = chatml(), [{"type": "function", "function": {"name": "add", "description": None}}]
    options = {"tools": [{"type": "function", "function": {"name": "add"}}], "thinking": True}
    want = template_ids(tokenizer, USER, add_generation_prompt=True, **options)
    assert "<think>" in tokenizer.decode(want)
    for given in (tools, '[{"type": "function", "function": {"name": "add"}}]'):
        row = {"prompt": USER, "tools": given, "chat_template_kwargs": {"thinking": True, "other": None}}
        assert encode_prompts([row], tokenizer, max_length=512)[0]["prompt_ids"] == want
    # No tools: no introduction of tools.
    plain = template_ids(tokenizer, USER, add_generation_prompt=True)
    assert encode_prompts([{"prompt": USER, "tools": []}], tokenizer, max_length=512)[0]["prompt_ids"] == plain


def test_prompt_that_ends_with_the_assistant_is_continued() -> None:
    tokenizer = chatml()
    (ids,) = encode_prompts([{"prompt": USER + assistant("red and")}], tokenizer, max_length=512)["prompt_ids"]
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\nred and")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{ messages | length }}{{ messages[0]['content'] }}",
            r"rows\[0\]: 'chosen': expected a chat template that renders the prompt as the beginning of the whole",
        ),
        (
            "{{ raise_exception('Conversation roles must alternate') }}",
            r"rows\[0\]: the chat template does not render the messages: Conversation roles must alternate",
        ),
        (None, "rows: expected a tokenizer with a chat template for rows of messages, got one without"),
    ],
)
def test_chat_template_that_cannot_be_used_is_refused(template: str | None, message: str) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=message):
        encoded(tokenizer, {"prompt": USER, "chosen": assistant("red"), "rejected": assistant("blue")})


def test_chat_template_without_an_end_of_turn_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    encoded(tokenizer, {"prompt": USER, "chosen": assistant("red"), "rejected": assistant("blue")})
    assert "rows: answers that the chat template ends without a special token" in caplog.text
