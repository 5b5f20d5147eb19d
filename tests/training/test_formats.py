"""Formats of rows and their containers: everything that is read, and the rows that are not."""

import csv
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from segkernel.training.cli.build import claim_run, parse_options, read_data
from segkernel.training.cli.train import main
from segkernel.training.data import saved_datasets
from segkernel.training.data.containers import digest
from segkernel.training.data.encoding import encode_preferences, encode_prompts, encode_texts
from segkernel.training.data.readers import read_preferences, read_prompts, read_texts, split_by_prompt
from segkernel.training.methods.registry import METHODS
from tests.training.tokenizers import chatml
from tests.training.trainer_helpers import tiny_tokenizer, write_jsonl

Row = dict[str, Any]


def user(text: str) -> list[Row]:
    return [{"role": "user", "content": text}]


def assistant(text: str) -> list[Row]:
    return [{"role": "assistant", "content": text}]


# Every format as two rows, with the rows that are read from them.
PLAIN_PAIRS = [{"prompt": "a?", "chosen": "é\n1", "rejected": "2"}, {"prompt": "b?", "chosen": "3", "rejected": '"4"'}]
CHAT_PAIRS = [
    {"prompt": user(row["prompt"]), "chosen": assistant(row["chosen"]), "rejected": assistant(row["rejected"])}
    for row in PLAIN_PAIRS
]


def implicit(rows: list[Row]) -> list[Row]:
    return [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in rows]


def as_read(rows: list[Row]) -> list[Row]:
    """Rows of strings as they are; messages as JSON, with the arguments of the template."""
    if isinstance(rows[0].get("prompt", rows[0].get("completion")), str):
        return rows
    texts = [
        {name: json.dumps(messages, ensure_ascii=False, separators=(",", ":")) for name, messages in row.items()}
        for row in rows
    ]
    return [{**row, "chat_template_arguments": "{}"} for row in texts]


def columns(rows: list[Row], *names: str) -> list[Row]:
    return [{name: row[name] for name in names} for row in rows]


def renamed(rows: list[Row], **names: str) -> list[Row]:
    return [{names.get(name, name): value for name, value in row.items()} for row in rows]


PLAIN_TEXTS = renamed(columns(PLAIN_PAIRS, "prompt", "chosen"), chosen="completion")
CHAT_TEXTS = renamed(columns(CHAT_PAIRS, "prompt", "chosen"), chosen="completion")

# Name: function that reads it, its rows, the rows that are read.
FORMATS: dict[str, tuple[Callable[..., Dataset], list[Row], list[Row]]] = {
    "pairs": (read_preferences, PLAIN_PAIRS, as_read(PLAIN_PAIRS)),
    "pairs of messages": (read_preferences, CHAT_PAIRS, as_read(CHAT_PAIRS)),
    "pairs, implicit prompt": (read_preferences, implicit(PLAIN_PAIRS), as_read(PLAIN_PAIRS)),
    "pairs of messages, implicit prompt": (read_preferences, implicit(CHAT_PAIRS), as_read(CHAT_PAIRS)),
    "prompts": (read_prompts, columns(PLAIN_PAIRS, "prompt"), columns(PLAIN_PAIRS, "prompt")),
    "prompts of messages": (read_prompts, columns(CHAT_PAIRS, "prompt"), as_read(columns(CHAT_PAIRS, "prompt"))),
    "questions": (read_prompts, renamed(PLAIN_TEXTS, prompt="question"), columns(PLAIN_PAIRS, "prompt")),
    "prompts of pairs": (read_prompts, implicit(CHAT_PAIRS), as_read(columns(CHAT_PAIRS, "prompt"))),
    "texts": (
        read_texts,
        renamed(columns(PLAIN_PAIRS, "chosen"), chosen="text"),
        [{"prompt": "", "completion": row["chosen"]} for row in PLAIN_PAIRS],
    ),
    "messages": (
        read_texts,
        [{"messages": row["prompt"] + row["chosen"]} for row in CHAT_PAIRS],
        as_read([{"prompt": [], "completion": row["prompt"] + row["chosen"]} for row in CHAT_PAIRS]),
    ),
    "prompts and completions": (read_texts, PLAIN_TEXTS, PLAIN_TEXTS),
    "prompts and completions of messages": (read_texts, CHAT_TEXTS, as_read(CHAT_TEXTS)),
    "questions and answers": (
        read_texts,
        renamed(PLAIN_TEXTS, prompt="question", completion="answer"),
        PLAIN_TEXTS,
    ),
}
TEXT_FORMATS = [name for name in FORMATS if "messages" not in name and name != "prompts of pairs"]


def jsonl(rows: list[Row]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def write_csv(path: Path, rows: list[Row]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def save(path: Path, rows: list[Row]) -> Path:
    Dataset.from_list(rows).save_to_disk(path)
    return path


def save_splits(path: Path, rows: list[Row]) -> Path:
    DatasetDict({"train": Dataset.from_list(rows), "test": Dataset.from_list(rows[:1])}).save_to_disk(path)
    return path


def write_parquet(path: Path, rows: list[Row]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


CONTAINERS: dict[str, Callable[[Path, list[Row]], Path]] = {
    "jsonl": lambda folder, rows: write_bytes(folder / "a.jsonl", jsonl(rows)),
    "jsonl with BOM": lambda folder, rows: write_bytes(folder / "a.jsonl", b"\xef\xbb\xbf" + jsonl(rows)),
    "jsonl.gz": lambda folder, rows: write_bytes(folder / "a.jsonl.gz", gzip.compress(jsonl(rows))),
    "json array": lambda folder, rows: write_bytes(folder / "a.json", json.dumps(rows, indent=1).encode()),
    "json lines": lambda folder, rows: write_bytes(folder / "a.json", jsonl(rows)),
    "no suffix": lambda folder, rows: write_bytes(folder / "a", jsonl(rows)),
    "csv": lambda folder, rows: write_csv(folder / "a.csv", rows),
    "parquet": lambda folder, rows: write_parquet(folder / "a.parquet", rows),
    "saved data set": lambda folder, rows: save(folder / "a", rows),
    "saved splits": lambda folder, rows: save_splits(folder / "a", rows),
}
LINES = ("jsonl", "jsonl with BOM", "jsonl.gz", "json lines", "no suffix")


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_format_is_read_from_every_container(container: str, tmp_path: Path) -> None:
    for number, (name, (read, rows, expected)) in enumerate(FORMATS.items()):
        if container == "csv" and name not in TEXT_FORMATS:
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        found = read(CONTAINERS[container](folder, rows)).to_list()
        if container in LINES:
            places = [{"line": 1}, {"line": 2}]
        elif container == "csv":
            places = [{"line": 2}, {"line": 4 if "\n" in "".join(rows[0].values()) else 3}]
        else:
            places = [{"record": 1}, {"record": 2}]
        assert found == [row | place for row, place in zip(expected, places, strict=True)], name


@pytest.mark.parametrize("name", FORMATS)
def test_python_rows_and_data_sets_have_the_ids_of_a_file(name: str, tmp_path: Path) -> None:
    read, rows, _ = FORMATS[name]
    tokenizer: Any = chatml()
    encode: Any = {read_preferences: encode_preferences, read_prompts: encode_prompts, read_texts: encode_texts}[read]
    expected = encode(read(write_jsonl(tmp_path / "a.jsonl", rows)), tokenizer, max_length=64).to_list()
    for given in (rows, Dataset.from_list(rows), iter(rows)):
        assert encode(given, tokenizer, max_length=64).to_list() == expected


def test_data_sets_of_the_hub_are_read_by_name_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    def load(*args: str, split: str) -> Dataset:
        loaded.append((*args, split))
        return Dataset.from_list(PLAIN_PAIRS)

    monkeypatch.setattr(saved_datasets, "load_dataset", load)
    monkeypatch.setattr(saved_datasets.HfApi, "dataset_info", lambda *args, **options: None)
    for source in ("owner/some-pairs", "owner/some-pairs:test", "owner/some-pairs:config:test"):
        assert len(read_preferences(source)) == 2
    assert loaded == [
        ("owner/some-pairs", "train"),
        ("owner/some-pairs", "test"),
        ("owner/some-pairs", "config", "test"),
    ]


def test_sources_that_cannot_be_read_are_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    saved = save_splits(tmp_path / "saved", PLAIN_PAIRS)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "pairs.xlsx").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")

    def offline(*args: Any, **options: Any) -> None:
        raise OSError("Name or service not known\nsecond line")

    monkeypatch.setattr(saved_datasets.HfApi, "dataset_info", offline)
    read = r"a \.jsonl, \.json, \.csv or \.parquet file .* `Dataset\.save_to_disk` .* data set of the hub .*"
    for source, error, message in (
        # A path with a folder that is here is a path, not a name on the hub.
        ("data/pairs", FileNotFoundError, "there is no file 'data/pairs'"),
        ("owner/pairs.jsonl", FileNotFoundError, r"there is no file 'owner/pairs\.jsonl'"),
        ("data", ValueError, f"expected {read} got the directory 'data'"),
        ("pairs.xlsx", ValueError, rf"expected {read} got 'pairs\.xlsx'"),
        ("pipe", ValueError, f"expected {read} got 'pipe'"),
        ("owner/pairs", ValueError, "owner/pairs: cannot be loaded from the hub, .*: Name or service not known$"),
        (f"{saved}:dev", ValueError, "expected one of the splits train, test as DIR:SPLIT, got 'dev'"),
        ("broken.parquet", ValueError, r"broken\.parquet: cannot be read as Parquet"),
    ):
        with pytest.raises(error, match=message):
            read_preferences(source)
    assert len(read_prompts(f"{saved}:train")) == 2


@pytest.mark.parametrize("container", ["jsonl", "saved data set"])
def test_digest_changes_with_the_contents(container: str, tmp_path: Path) -> None:
    digests = []
    for number, rows in enumerate((PLAIN_PAIRS, PLAIN_PAIRS[::-1])):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = CONTAINERS[container](folder, rows)
        digests.append(digest(path))
        assert digest(path) == digests[-1]
    assert digests[0] != digests[1]


def test_digest_changes_with_the_split(tmp_path: Path) -> None:
    saved = save_splits(tmp_path / "a", PLAIN_PAIRS)
    assert digest(f"{saved}:train") != digest(f"{saved}:test")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '[{"prompt": "p"},', r"a\.json: malformed JSON: .*line 1 column 18"),
        ("a.json", '[{"prompt": "p", "chosen": "a", "rejected": "b"}, 3]', r"row 2: expected a JSON object, got int"),
        (
            "a.json",
            '{\n"data": []}',
            r"a\.json: expected an array of objects, .* got an object with the keys \['data'\]",
        ),
        ("a.csv", "prompt,chosen,rejected\np,a\n", r"a\.csv, line 2: expected 3 values as in the first line, got 2"),
        ("a.csv", 'prompt,chosen,rejected\np,a,b\np,"a,b\n', r"a\.csv, line 3: malformed CSV: unexpected end"),
        ("a.csv", b"prompt,chosen,rejected\np,a,\xff\n", r"a\.csv, line 2: invalid UTF-8: byte 0xff"),
        ("a.csv", "prompt,chosen\np,a\n", r"a\.csv, line 2: expected the key 'rejected', got \['chosen', 'prompt'\]"),
    ],
)
def test_errors_name_the_place_in_a_container(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    path = write_bytes(tmp_path / name, text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_preferences(path)


# --- implicit prompts and messages -----------------------------------------------------------------------------------


def test_implicit_prompt_of_strings_is_their_common_beginning_without_a_space(tmp_path: Path) -> None:
    rows = [
        {"chosen": "Capital of Peru? It is Lima.", "rejected": "Capital of Peru? It is Oslo, maybe."},
        {"chosen": "2+2=4", "rejected": "2+2=5"},
    ]
    found = read_preferences(write_jsonl(tmp_path / "a.jsonl", rows))
    assert found["prompt"] == ["Capital of Peru? It is", "2+2="]
    assert found["chosen"] == [" Lima.", "4"]
    assert found["rejected"] == [" Oslo, maybe.", "5"]


def test_implicit_prompt_of_messages_is_their_common_turns(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "s"}, *user("a"), *assistant("b"), *user("c")]
    # A prompt that repeats the question next to whole conversations adds nothing.
    row = {"prompt": "a", "chosen": turns + assistant("d"), "rejected": turns + assistant("e")}
    found = read_preferences(write_jsonl(tmp_path / "a.jsonl", [row, row]))[0]
    assert [json.loads(found[name]) for name in ("prompt", "chosen", "rejected")] == [
        turns,
        assistant("d"),
        assistant("e"),
    ]


def test_messages_of_the_prompt_that_both_answers_repeat_are_left_out(tmp_path: Path) -> None:
    rows = [{**row, **{side: row["prompt"] + row[side] for side in ("chosen", "rejected")}} for row in CHAT_PAIRS]
    read = [read_preferences(write_jsonl(tmp_path / "a.jsonl", given)).to_list() for given in (rows, CHAT_PAIRS)]
    assert read[0] == read[1]


def test_messages_lose_the_nulls_that_a_table_adds(tmp_path: Path) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    rows = [{"prompt": [*user("a"), call]}, {"prompt": [{"role": "user", "content": "b"}]}]
    found = read_prompts(save(tmp_path / "a", rows))["prompt"]
    assert [json.loads(messages) for messages in found] == [row["prompt"] for row in rows]
    in_parts = {"prompt": [{"role": "user", "content": parts}]}
    joined = read_prompts(write_jsonl(tmp_path / "b.jsonl", [in_parts, rows[0]]))
    assert json.loads(joined["prompt"][0]) == user("ab")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"chosen": "a", "rejected": "b"}, "expected 'prompt', or 'chosen' and 'rejected' that begin with the same"),
        ({"prompt": "p", "chosen": assistant("a"), "rejected": assistant("b")}, "'prompt': expected messages as in"),
        ({"prompt": user("p"), "chosen": "a", "rejected": "b"}, "'chosen': expected messages as in the other columns"),
        ({"prompt": "p", "chosen": "a", "rejected": assistant("b")}, "expected strings or messages in both"),
        ({"chosen": user("p"), "rejected": user("p") + assistant("b")}, "expected an answer after the common prompt"),
        ({"prompt": user("p"), "chosen": [], "rejected": assistant("b")}, "'chosen': expected at least one message"),
        (
            {"prompt": [{"from": "human", "value": "p"}], "chosen": assistant("a"), "rejected": assistant("b")},
            r"'prompt': expected messages with 'role' and 'content', got \['from', 'value'\]",
        ),
        (
            {"chosen": [{"role": "user", "content": [{"type": "image"}]}], "rejected": user("p")},
            "'chosen': expected text as the content of a message, got ",
        ),
        (
            {"prompt": user("p"), "chosen": assistant("\ud83d"), "rejected": assistant("b")},
            r"'chosen': half of a surrogate pair, U\+D83D, is no character",
        ),
        (
            {"prompt": user("p"), "chosen": assistant("a"), "rejected": assistant("b"), "tools": "["},
            "'tools': malformed JSON",
        ),
        (
            {"prompt": user("p"), "chosen": assistant("a"), "rejected": assistant("b"), "tools": {"a": 1}},
            "'tools': expected a list, got dict",
        ),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "chosen_mask": [2]},
            "'chosen_mask': expected a list of 0 and 1 .*, got 2",
        ),
    ],
)
def test_rows_that_cannot_be_used_are_refused_with_their_line(tmp_path: Path, row: Row, message: str) -> None:
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 1: {message}"):
        read_preferences(write_jsonl(tmp_path / "a.jsonl", [row] * 2))
    with pytest.raises(ValueError, match=rf"rows\[0\]: {message}"):
        encode_preferences([row], chatml(), max_length=64)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (DatasetDict({"train": Dataset.from_list(PLAIN_PAIRS)}), "rows: expected rows, got DatasetDict of train"),
        (["a", "b"], r"rows\[0\]: expected a mapping, got str"),
    ],
)
def test_python_data_that_holds_no_rows_is_refused(rows: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_preferences(rows, tiny_tokenizer(), max_length=64)


# --- splits and the command line -------------------------------------------------------------------------------------


def test_split_by_prompt_keeps_conversations_together(tmp_path: Path) -> None:
    rows = [{**row, "prompt": user(f"q{index // 2}")} for index, row in enumerate(CHAT_PAIRS * 6)]
    train, held_out = split_by_prompt(read_preferences(write_jsonl(tmp_path / "a.jsonl", rows)), 0.3)
    assert len(held_out) == 4
    assert not set(train["prompt"]) & set(held_out["prompt"])


def test_command_line_reads_and_records_a_saved_data_set(tmp_path: Path) -> None:
    rows = [{**row, "prompt": user(f"say {index}")} for index, row in enumerate(CHAT_PAIRS * 5)]
    data, method = save(tmp_path / "data", rows), METHODS["dpo"]
    options = parse_options(method, ["--preferences", str(data), "--output_dir", str(tmp_path / "out"), "--use_cpu"])
    assert claim_run(method, options)["data_sha256"] == digest(data)
    train, held_out = read_data(options)
    assert (len(train), len(held_out)) == (9, 1)
    assert sorted([*train["record"], *held_out["record"]]) == list(range(1, 11))


def test_command_line_refuses_messages_without_a_chat_template(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from segkernel._arguments import UserError

    path = write_jsonl(tmp_path / "a.jsonl", CHAT_PAIRS)
    with pytest.raises(UserError, match=r"a\.jsonl: expected a tokenizer with a chat template for rows of messages"):
        main(["dpo", "--preferences", str(path), "--output_dir", str(tmp_path / "out"), "--use_cpu"])
    assert not (tmp_path / "out").exists()
