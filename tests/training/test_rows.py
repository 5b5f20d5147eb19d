"""Rows that are dropped, refused or counted, and columns that only some rows have."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from segkernel.training.data.encoding import encode_preferences
from segkernel.training.data.readers import read_preferences, read_prompts
from segkernel.training.methods.registry import METHODS
from segkernel.training.rewards.calculations import CalculationScorer
from tests.training.tokenizers import chatml
from tests.training.trainer_helpers import QUICK, tiny_lm, tiny_tokenizer, write_jsonl

Row = dict[str, Any]

TOKENIZER = chatml()
PAIRS = [{"prompt": "a?", "chosen": "é\n1", "rejected": "2"}, {"prompt": "b?", "chosen": "3", "rejected": '"4"'}]


def user(text: str) -> list[Row]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[Row]:
    return [{"role": "assistant", "content": text}]


CHAT = [
    {"prompt": user("a?"), "chosen": assistant("1"), "rejected": assistant("2")},
    {"prompt": user("b?"), "chosen": assistant("3"), "rejected": assistant("4")},
]


def test_skip_bad_rows_counts_and_names_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = ["{", '{"prompt": "p"}', '{"prompt": "\\ud83d", "chosen": "a", "rejected": "b"}', "3", b"\xff"]
    lines = [json.dumps(PAIRS[0]), *bad, json.dumps(PAIRS[1])]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    found = read_preferences(path, skip_bad_rows=True)
    assert found["line"] == [1, 7]
    (message,) = caplog.messages
    assert message.startswith(f"{path}: skipped bad rows: 5 of 7 (line 2: malformed JSON: ")
    assert "; line 3: expected the key 'chosen', got ['prompt']; line 4: 'prompt': half of a" in message
    assert message.endswith("; ...)")


def test_skip_bad_rows_skips_rows_whose_tokens_do_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    good = {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3], "line": 1}
    bad = {**good, "chosen_mask": [True, True, True], "line": 2}
    found = encode_preferences([good, bad, good], None, max_length=8, skip_bad_rows=True)
    assert found.column_names == ["prompt_ids", "chosen_ids", "rejected_ids", "chosen_mask"]
    assert len(found) == 2
    assert caplog.messages == [
        "rows: skipped bad rows: 1 of 3 (line 2: chosen_mask: expected 1 values, one per token (or one "
        "fewer: without the EOS), got 3)"
    ]


@pytest.mark.parametrize("container", [list, Dataset.from_list])
def test_row_behind_a_dropped_one_keeps_its_place_in_messages(container: Any) -> None:
    same = {**PAIRS[0], "rejected": PAIRS[0]["chosen"]}
    rows = [same, PAIRS[1], {**PAIRS[1], "chosen_mask": [1] * 99, "line": "of a poem"}]
    if container is not list:
        rows[:2] = [{"chosen_mask": None, "line": None, **row} for row in rows[:2]]
    with pytest.raises(ValueError, match=r"^rows\[2\]: chosen_mask: expected"):
        encode_preferences(container(rows), TOKENIZER, max_length=64)


@pytest.mark.parametrize("method", ["pretrain", "dpo", "ppo", "rft"])
def test_trainers_skip_bad_rows_if_their_config_says_so(
    method: str, tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config_class, trainer_class = METHODS[method].load()
    good, bad = {"pretrain": ({"text": "a"}, {"text": 3}), "dpo": (PAIRS[0], {"prompt": "a"})}.get(
        method, ({"prompt": "a"}, {"prompt": ""})
    )
    options = {"max_new_tokens": 1, "max_prompt_length": 8} if method in ("ppo", "rft") else {}
    inputs = {"reward_model": CalculationScorer(tokenizer)} if method in ("ppo", "rft") else {}

    def make(**more: Any) -> Any:
        config = config_class(str(tmp_path), **QUICK, **options, **more)
        model = tiny_lm(tokenizer)
        return trainer_class(model, config, [good, bad] * 4, [good], processing_class=tokenizer, **inputs)

    with pytest.raises(ValueError, match=r"train_dataset\[1\]: "):
        make()
    make(skip_bad_rows=True)
    assert any(message.startswith("train_dataset: skipped bad rows: 4 of 8 ([1]") for message in caplog.messages)


def test_identical_pairs_are_dropped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    same = {"prompt": "c?", "chosen": "1", "rejected": "1"}
    path = write_jsonl(tmp_path / "a.jsonl", [PAIRS[0], same, PAIRS[1]])
    assert read_preferences(path)["prompt"] == ["a?", "b?"]
    assert caplog.messages == [f"{path}: dropped pairs with identical answers: 1 of 3 (line 2)"]
    caplog.clear()
    chat = {"chosen": user("p") + assistant("a"), "rejected": user("p") + assistant("a")}
    assert len(encode_preferences([*CHAT, chat], chatml(), max_length=64)) == 2
    assert caplog.messages == ["rows: dropped pairs with identical answers: 1 of 3 ([2])"]
    with pytest.raises(ValueError, match="rows: expected at least one pair to train on, got 1 that are all dropped"):
        encode_preferences([same], tiny_tokenizer(), max_length=64)


def test_blank_prompts_and_empty_answers_are_counted_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"prompt": " \n", "chosen": "", "rejected": "b"},
        {"prompt": "p", "chosen": "a", "rejected": " "},
        {"prompt": user("p"), "chosen": assistant(""), "rejected": assistant("b")},
    ]
    tokenizer = chatml()
    found = encode_preferences(rows, tokenizer, max_length=64)
    assert len(found) == 3
    assert found["chosen_ids"][0] == [tokenizer.eos_token_id]
    assert caplog.messages == [
        "rows: blank prompts: 1 of 3 ([0])",
        "rows: empty chosen responses: 2 of 3 ([0], [2])",
        "rows: empty rejected responses: 1 of 3 ([1])",
    ]


def test_columns_that_are_not_read_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Masks are read; token rewards only where an option names their column.
    rows = [
        {**row, "images": ["a.png"], "chosen_token_rewards": [1.0], "chosen_mask": [1], "tools": None} for row in PAIRS
    ]
    rows[1]["source"] = "web"
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert read_preferences(path)["chosen_mask"] == [[True], [True]]
    assert caplog.messages == [f"{path}: columns that are not read: chosen_token_rewards, images, source"]
    caplog.clear()
    read_preferences(path, chosen_rewards="chosen_token_rewards")
    read_prompts(path)
    assert caplog.messages == [
        f"{path}: columns that are not read: images, source",
        f"{path}: columns that are not read: chosen_mask, chosen_token_rewards, images, source",
    ]
    caplog.clear()
    encode_preferences(Dataset.from_list([row | {"note": 1} for row in PAIRS]), tiny_tokenizer(), max_length=64)
    assert caplog.messages == ["rows: columns that are not read: note"]


def test_repeated_prompts_and_unused_separators_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}, {"prompt": user("a")}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert len(read_prompts(path, separator=":")) == 3
    assert caplog.messages == [
        f"{path}: repeated prompts, used once: 1 of 4 (line 3)",
        f"{path}: prompts of messages, without the separator: 1 of 4 (line 4)",
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.sampled_from(["", "red", "\ud83d", "<|im_end|>", 1, -0.5, 10**400, float("nan")]),
    lambda values: (
        st.lists(values, max_size=2) | st.dictionaries(st.sampled_from(["role", "content", "text"]), values, max_size=2)
    ),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": JSON}), max_size=2
)
COLUMNS = ("prompt", "chosen", "rejected", "tools", "chosen_mask", "chosen_token_rewards", "chosen_ids", "line")


@given(row=st.dictionaries(st.sampled_from(COLUMNS), JSON | MESSAGES, max_size=3), defaults=st.booleans())
@settings(deadline=None, max_examples=60)
def test_any_row_is_encoded_or_refused_by_name(row: Row, defaults: bool) -> None:
    source = {**PAIRS[0], **row} if defaults else row
    try:
        (encoded,) = encode_preferences([source], TOKENIZER, max_length=64)
    except ValueError as error:
        if not str(error).startswith("rows"):
            raise
    else:
        assert encoded["prompt_ids"]
        assert encoded["chosen_ids"] != encoded["rejected_ids"]


def test_data_set_with_ids_of_another_type_is_refused_by_column() -> None:
    row = {"prompt_ids": ["a"], "chosen_ids": [1], "rejected_ids": [2]}
    with pytest.raises(ValueError, match=r"rows: prompt_ids: expected list<.*int32>, got list<.*string>"):
        encode_preferences(Dataset.from_list([row]), None, max_length=8)


def test_file_has_no_columns_of_the_schema_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{**row, "chat_template_arguments": "{}", "record": "x"} for row in PAIRS]
    found = read_preferences(write_jsonl(tmp_path / "a.jsonl", rows))
    assert found.column_names == ["prompt", "chosen", "rejected", "line"]
    assert caplog.messages[0].endswith("columns that are not read: chat_template_arguments, record")


# --- columns that only some rows have --------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
@pytest.mark.parametrize("container", ["list", "data set", "file"])
def test_masks_of_some_rows_are_read_in_any_order(order: list[int], container: str, tmp_path: Path) -> None:
    texts = {"prompt": "a", "chosen": "b", "rejected": "c"}
    rows: list[Row] = [{**texts, "chosen_mask": [0, 1]}, texts, {**texts, "chosen_mask": None, "rejected_mask": [1, 0]}]
    shuffled = [rows[index] for index in order]
    source: Any = shuffled
    if container == "data set":
        source = Dataset.from_list([dict.fromkeys(("chosen_mask", "rejected_mask")) | row for row in shuffled])
    elif container == "file":
        source = read_preferences(write_jsonl(tmp_path / "a.jsonl", shuffled))
    found = encode_preferences(source, tiny_tokenizer(), max_length=64)
    expected = [([False, True], None), (None, None), (None, [True, False])]
    assert [(row["chosen_mask"], row["rejected_mask"]) for row in found] == [expected[index] for index in order]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_token_rewards_that_a_row_lacks_are_refused_by_name(order: list[int], tmp_path: Path) -> None:
    texts = {"prompt": "a", "chosen": "b", "rejected": "c"}
    rows = [{**texts, "chosen_token_rewards": [1.0, 0.0], "rejected_token_rewards": [0.0]}, texts]
    shuffled = [rows[index] for index in order]
    at = order.index(1)
    dataset = Dataset.from_list(shuffled if at else [dict.fromkeys(rows[0]) | row for row in shuffled])
    for container in (shuffled, dataset):
        with pytest.raises(ValueError, match=rf"rows\[{at}\]: chosen_token_rewards: expected one value per token"):
            encode_preferences(container, tiny_tokenizer(), max_length=64)
    names = {f"{side}_rewards": f"{side}_token_rewards" for side in ("chosen", "rejected")}
    with pytest.raises(ValueError, match=rf"line {at + 1}: expected the key 'chosen_token_rewards'"):
        read_preferences(write_jsonl(tmp_path / "a.jsonl", shuffled), **names)


def test_columns_of_nulls_are_as_good_as_absent() -> None:
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "chosen_mask": None, "chosen_token_rewards": None}
    found = encode_preferences(Dataset.from_list([row, row]), tiny_tokenizer(), max_length=64)
    assert found.column_names == ["prompt_ids", "chosen_ids", "rejected_ids"]
