"""Token ids of conversations by the tokenizer's chat template."""

import json
from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from segkernel.training.data.formats import ARGUMENTS
from segkernel.training.data.row_log import RowError, RowLog
from segkernel.training.data.tokenization import Tokenization


class Conversations:
    """Renders rows of messages (`segkernel.training.data.formats`) and tokenizes them.

    Args:
        tokens: tokenization by the tokenizer whose chat template is used.
        log: counts answers without a special token at their end.
    """

    def __init__(self, tokens: Tokenization, log: RowLog) -> None:
        self.tokens, self.log = tokens, log

    def prompt(self, row: Mapping[str, Any], where: str) -> list[int]:
        """Token ids of a prompt, up to the header of the answer; a last message of the assistant is continued."""
        return self.tokens.ids([self._prompt_text(row, where)])[0]

    def texts(self, row: Mapping[str, Any], where: str) -> list[int]:
        """Token ids of a whole conversation, `prompt` and `completion`."""
        return self.tokens.ids([self._render(row, where, "prompt", "completion")])[0]

    def response(self, row: Mapping[str, Any], column: str, prompt_ids: list[int], where: str) -> list[int]:
        """Token ids of an answer: those of the whole conversation after `prompt_ids`.

        Where the template's text of the prompt is a prefix of the whole but its last token merges with the answer, the
        answer is tokenized separately.

        Raises:
            RowError: the template renders the prompt differently once an answer follows.
        """
        whole = self._render(row, where, "prompt", column)
        if not self.tokens.ends(whole):
            self.log.count("answers that the chat template ends without a special token, so nothing ends a turn", where)
        (ids,) = self.tokens.ids([whole])
        if ids[: len(prompt_ids)] == prompt_ids:
            return ids[len(prompt_ids) :]
        prompt = self._prompt_text(row, where)
        if whole.startswith(prompt):
            return self.tokens.continuations([whole[len(prompt) :]], [prompt])[0]
        raise RowError(
            f"{where}: {column!r}: expected a chat template that renders the prompt as the beginning of the whole "
            f"conversation, got {prompt[-40:]!r} at the end of the prompt"
        )

    def _prompt_text(self, row: Mapping[str, Any], where: str) -> str:
        continued = _load(row["prompt"])[-1]["role"] == "assistant"
        return self._render(row, where, "prompt", add_generation_prompt=not continued, continue_final_message=continued)

    def _render(self, row: Mapping[str, Any], where: str, *columns: str, **options: bool) -> str:
        messages = [message for column in columns for message in _load(row[column])]
        arguments: dict[str, Any] = _load(row[ARGUMENTS])
        arguments |= {**arguments.pop("chat_template_kwargs", {}), **options}
        # An empty list would make some templates render the introduction of tools.
        tools = arguments.pop("tools", None) or None
        try:
            text = self.tokens.tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **arguments)
        except (TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise RowError(f"{where}: the chat template does not render the messages: {error}") from error
        return str(text)


def check_chat_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer without a chat template, for rows of messages.

    Raises:
        ValueError: it has none.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            f"{name}: expected a tokenizer with a chat template for rows of messages, got one without; use the "
            "tokenizer of an instruction-tuned model, or rows of strings"
        )


def is_blank(text: str, *, messages: bool) -> bool:
    """Whether a text, or the content of every message, is empty or white space."""
    if not messages:
        return not text.strip()
    return not any((message["content"] or "").strip() or message.get("tool_calls") for message in _load(text))


def _load(text: str) -> Any:
    return json.loads(text)
