"""Formats of rows: strings or messages, with an explicit or an implicit prompt, to rows of one schema.

The formats are those of TRL. A row of messages keeps them as JSON in its text columns, and the other arguments of the
chat template in `chat_template_arguments`. `segkernel.training.data.conversations` renders them once there is a
tokenizer.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from segkernel.training.data.columns import SIDES
from segkernel.training.data.prefixes import common_prefix_length
from segkernel.training.data.row_log import RowError

__all__ = ["ARGUMENTS", "completion_row", "finite_numbers", "preference_row", "prompt_row"]

Row: TypeAlias = dict[str, Any]
Messages: TypeAlias = list[dict[str, Any]]
# Column of rows of messages; rows of strings lack it.
ARGUMENTS = "chat_template_arguments"
TEMPLATE_ARGUMENTS = ("tools", "chat_template_kwargs")


def preference_row(source: Mapping[str, Any], where: str) -> Row:
    """Row of a preference pair: `prompt`, `chosen`, `rejected`, and its masks and token rewards.

    Without `prompt`, the prompt is the longest common beginning of both answers: of their messages or, as in TRL, of
    their characters, without a space at its end. Messages of `prompt` that both answers repeat are left out of them.

    Args:
        source: row as read, with `chosen` and `rejected`, both strings or both lists of messages.
        where: name of the row in messages.

    Raises:
        RowError: a missing column, a value of another type, answers that share no prompt.
    """
    row = _present(source)
    chosen, rejected = (_text_or_messages(row, side, where) for side in SIDES)
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise RowError(f"{where}: expected strings or messages in both 'chosen' and 'rejected', got one of each")
    prompt = _text_or_messages(row, "prompt", where) if "prompt" in row else None
    # Some data sets repeat the question as a string next to answers that hold the whole conversation.
    if prompt is None or (isinstance(prompt, str) and not isinstance(chosen, str)):
        length = common_prefix_length(chosen, rejected)
        if isinstance(chosen, str) and chosen[:length].endswith(" "):
            length -= 1
        if length == 0:
            raise RowError(
                f"{where}: expected 'prompt', or 'chosen' and 'rejected' that begin with the same prompt"
                if prompt is None
                else f"{where}: 'prompt': expected messages as in 'chosen' and 'rejected', got a string"
            )
        prompt, chosen, rejected = chosen[:length], chosen[length:], rejected[length:]
    elif isinstance(prompt, list) and chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if isinstance(prompt, list) and bool(chosen) != bool(rejected):
        raise RowError(f"{where}: expected an answer after the common prompt in both 'chosen' and 'rejected'")
    found = _same_kind({"prompt": prompt, "chosen": chosen, "rejected": rejected}, row, where)
    for side in SIDES:
        if f"{side}_mask" in row:
            found[f"{side}_mask"] = _mask(row[f"{side}_mask"], f"{side}_mask", where)
        if f"{side}_token_rewards" in row:
            found[f"{side}_token_rewards"] = finite_numbers(row, f"{side}_token_rewards", where)
    return found


def prompt_row(source: Mapping[str, Any], where: str) -> Row:
    """Row of a prompt: `prompt`, from `prompt`, `question`, or the prompt that a preference pair implies.

    Raises:
        RowError: a missing column, a value of another type, or an empty prompt.
    """
    row = _present(source)
    if "prompt" not in row and "question" not in row and "chosen" in row and "rejected" in row:
        pair = preference_row(source, where)
        return {name: pair[name] for name in ("prompt", ARGUMENTS) if name in pair}
    prompt = _text_or_messages(row, "question" if "question" in row else "prompt", where)
    if not prompt:
        raise RowError(f"{where}: the prompt is empty")
    return _same_kind({"prompt": prompt}, row, where)


def completion_row(source: Mapping[str, Any], where: str) -> Row:
    """Row of a text to model: `prompt` (empty for a plain text) and `completion`.

    Args:
        source: row with `text`, `messages`, `prompt` and `completion`, or `question` and `answer`.
        where: name of the row in messages.

    Raises:
        RowError: none of these columns, a value of another type, or an empty text.
    """
    row = _present(source)
    found: dict[str, Any]
    if "text" in row:
        found = {"prompt": "", "completion": _string(row, "text", where)}
    elif "messages" in row:
        found = {"prompt": [], "completion": _messages(row["messages"], "messages", where)}
    else:
        names = ("question", "answer") if "question" in row else ("prompt", "completion")
        if names[0] not in row:
            raise RowError(
                f"{where}: expected 'text', 'messages', 'prompt' and 'completion', or 'question' and 'answer', "
                f"got the columns {sorted(row)}"
            )
        texts = (_text_or_messages(row, name, where) for name in names)
        found = dict(zip(("prompt", "completion"), texts, strict=True))
    if not (found["prompt"] or found["completion"]):
        raise RowError(f"{where}: the text is empty")
    return _same_kind(found, row, where)


def finite_numbers(row: Mapping[str, Any], name: str, where: str) -> list[float]:
    """Values per token of a column.

    Raises:
        RowError: the row lacks them, or they are not finite numbers.
    """
    try:
        values = [float(value) for value in _require(row, name, where) if not isinstance(value, str)]
        if len(values) == len(row[name]) and all(map(math.isfinite, values)):
            return values
    except (TypeError, OverflowError):
        pass
    refused = _first_refused(row[name], _is_finite)
    raise RowError(f"{where}: {name!r}: expected a list of finite numbers, one per response token, got {refused}")


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, str) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False


def _first_refused(values: Any, accepts: Callable[[Any], bool]) -> str:
    """First value that is not accepted, or the type of what is no list."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        return type(values).__name__
    return next((f"{value!r:.60}" for value in values if not accepts(value)), type(values).__name__)


def _present(source: Mapping[str, Any]) -> Row:
    """Columns that have a value; `datasets` stores a missing one as None."""
    return {name: value for name, value in source.items() if value is not None}


def _require(row: Mapping[str, Any], name: str, where: str) -> Any:
    if row.get(name) is None:
        raise RowError(f"{where}: expected the key {name!r}, got {sorted(_present(row))}")
    return row[name]


def _string(row: Mapping[str, Any], name: str, where: str) -> str:
    value = _require(row, name, where)
    if not isinstance(value, str):
        raise RowError(f"{where}: {name!r}: expected a string, got {type(value).__name__}")
    _check_unicode(value, name, where)
    return value


def _text_or_messages(row: Mapping[str, Any], name: str, where: str) -> Any:
    """String as it is, or list of messages; JSON of messages in a row that is read already stays a string."""
    value = _require(row, name, where)
    if isinstance(value, str):
        return _string(row, name, where)
    return _messages(value, name, where)


def _messages(value: Any, name: str, where: str) -> Messages:
    if not isinstance(value, list | tuple):
        raise RowError(f"{where}: {name!r}: expected a string or a list of messages, got {type(value).__name__}")
    if not value:
        raise RowError(f"{where}: {name!r}: expected at least one message, got none")
    messages = []
    for message in value:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            got = sorted(message) if isinstance(message, Mapping) else type(message).__name__
            raise RowError(f"{where}: {name!r}: expected messages with 'role' and 'content', got {got}")
        content = _content(message.get("content"), name, where)
        messages.append({**_without_none(dict(message)), "role": message["role"], "content": content})
    _check_unicode(json.dumps(messages, ensure_ascii=False), name, where)
    return messages


def _content(content: Any, name: str, where: str) -> str | None:
    """Text of a message; a list of text parts is joined. None is legal next to tool calls."""
    if content is None or isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in parts):
        raise RowError(f"{where}: {name!r}: expected text as the content of a message, got {content!r:.60}")
    return "".join(part["text"] for part in parts)


def _without_none(value: Any) -> Any:
    """Value without the keys that a table adds to its rows because other rows have them."""
    if isinstance(value, Mapping):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list) else value


def _same_kind(texts: dict[str, Any], row: Row, where: str) -> Row:
    """Row of strings: the texts as they are, or messages as JSON with the template's arguments next to it."""
    if not isinstance(row.get(ARGUMENTS, ""), str):
        raise RowError(f"{where}: {ARGUMENTS!r}: expected JSON as a string, got {type(row[ARGUMENTS]).__name__}")
    if all(isinstance(text, str) for text in texts.values()):
        return texts | ({ARGUMENTS: row[ARGUMENTS]} if ARGUMENTS in row else {})
    for name, messages in texts.items():
        if isinstance(messages, str):
            raise RowError(f"{where}: {name!r}: expected messages as in the other columns, got a string")
    arguments = {name: _arguments(row[name], name, where) for name in TEMPLATE_ARGUMENTS if name in row}
    return {name: _json(messages) for name, messages in texts.items()} | {ARGUMENTS: _json(arguments)}


def _arguments(value: Any, name: str, where: str) -> Any:
    """`tools` or `chat_template_kwargs`; a string is read as JSON, as tables of differing tools hold them."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise RowError(f"{where}: {name!r}: malformed JSON: {error}") from error
    expected = list if name == "tools" else dict
    if not isinstance(value, expected):
        raise RowError(f"{where}: {name!r}: expected a {expected.__name__}, got {type(value).__name__}")
    return _without_none(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _mask(values: Any, name: str, where: str) -> list[bool]:
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, list) or not all(map(_is_bit, values)):
        refused = _first_refused(values, _is_bit)
        raise RowError(
            f"{where}: {name!r}: expected a list of 0 and 1 or booleans, one per response token, got {refused}"
        )
    return [bool(value) for value in values]


def _is_bit(value: Any) -> bool:
    return value in (0, 1)


def _check_unicode(text: str, name: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise RowError(f"{where}: {name!r}: half of a surrogate pair, U+{code:04X}, is no character") from None
