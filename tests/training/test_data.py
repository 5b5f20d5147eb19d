import gzip
import json
import logging
import re
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets import Dataset

from segkernel.training.data.collators import PreferenceCollator, ResponseCollator
from segkernel.training.data.columns import PAIRS, subset
from segkernel.training.data.encoding import encode_preferences, encode_prompts, encode_texts
from segkernel.training.data.readers import read_preferences, read_prompts, read_texts, split_by_prompt
from segkernel.training.data.tables import FlatLists, columns_of_sides, flat_sides, to_dataset, with_columns
from segkernel.training.trainer.batches import model_logits
from tests.training.trainer_helpers import pairs, tiny_lm, tiny_tokenizer, write_jsonl

ROW = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def test_read_preferences_plain_and_gzipped(tmp_path: Path) -> None:
    lines = [json.dumps(ROW), "", json.dumps({**ROW, "chosen": "bést", "extra": 1})]
    plain, zipped = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_text("\n".join(lines), encoding="utf-8")
    zipped.write_bytes(gzip.compress("\n".join(lines).encode()))
    expected = [
        {"prompt": "p: ", "chosen": "good", "rejected": "bad", "line": 1},
        {"prompt": "p: ", "chosen": "bést", "rejected": "bad", "line": 3},
    ]
    assert read_preferences(plain, separator=": ").to_list() == expected
    assert read_preferences(zipped, separator=": ").to_list() == expected


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"prompt": "p", ', r"pairs\.jsonl, line 2: malformed JSON"),
        ('["p", "a", "b"]', r"pairs\.jsonl, line 2: expected a JSON object, got list"),
        ('{"prompt": "p", "chosen": "a"}', r"line 2: expected the key 'rejected', got \['chosen', 'prompt'\]"),
        (
            '{"prompt": "p", "chosen": "a", "rejected": 3}',
            r"line 2: 'rejected': expected a string or a list of messages, got int",
        ),
        (
            r'{"prompt": "p \ud83d?", "chosen": "a", "rejected": "b"}',
            r"line 2: 'prompt': half of a surrogate pair, U\+D83D",
        ),
        ('{"prompt": "p", "chosen": "a", "chosen": null, "rejected": "b"}', r"line 2: expected the key 'chosen'"),
        ("[" * 100000, r"pairs\.jsonl, line 2: malformed JSON: nested too deeply"),
        ('{"prompt": ' + "1" * 5000 + "}", r"pairs\.jsonl, line 2: Exceeds the limit"),
    ],
)
def test_read_preferences_names_the_bad_line(tmp_path: Path, second: str, message: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(ROW) + "\n" + second + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_preferences(path)


@pytest.mark.parametrize("count", [0, 1])
def test_readers_refuse_fewer_than_two_rows(tmp_path: Path, count: int) -> None:
    path = write_jsonl(tmp_path / "few.jsonl", [ROW] * count)
    with pytest.raises(ValueError, match=rf"few\.jsonl: expected at least 2 preference pairs, got {count}"):
        read_preferences(path)
    with pytest.raises(ValueError, match=rf"expected at least 2 texts, got {count}"):
        read_texts(write_jsonl(tmp_path / "few.jsonl", [{"text": "a"}] * count))


def test_read_preferences_names_an_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_preferences(tmp_path / "none.jsonl")
    (tmp_path / "plain.jsonl.gz").write_text(json.dumps(ROW), encoding="utf-8")
    with pytest.raises(ValueError, match=r"plain\.jsonl\.gz, after line 0: damaged gzip data: Not a gzipped file"):
        read_preferences(tmp_path / "plain.jsonl.gz")
    whole = gzip.compress(b"".join(json.dumps(ROW).encode() + b"\n" for _ in range(5000)))
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.jsonl\.gz, after line \d+: damaged gzip data: Compressed file ended"):
        read_preferences(tmp_path / "cut.jsonl.gz")
    (tmp_path / "overwritten.jsonl.gz").write_bytes(whole[:40] + b"\xff" * (len(whole) - 40))
    with pytest.raises(ValueError, match=r"overwritten\.jsonl\.gz, after line \d+: damaged gzip data: Error -3"):
        read_preferences(tmp_path / "overwritten.jsonl.gz", skip_bad_rows=True)
    (tmp_path / "latin.jsonl").write_bytes(json.dumps(ROW).encode() + b'\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(ValueError, match=r"latin\.jsonl, line 2: invalid UTF-8: byte 0xe9"):
        read_preferences(tmp_path / "latin.jsonl")


@pytest.mark.parametrize(
    ("rewards", "got"),
    [
        ("12", "str"),
        (3.5, "float"),
        ([1.0, "x"], "'x'"),
        (["1"], "'1'"),
        ([True, None], "None"),
        ([float("nan")], "nan"),
        ([10**400], "1" + 59 * "0"),
        (None, None),
    ],
    ids=str,
)
def test_read_preferences_refuses_token_rewards_that_are_not_finite(tmp_path: Path, rewards: Any, got: str) -> None:
    rows = [{**ROW, "good": [1, 2.5], "bad": rewards}] * 2
    path = write_jsonl(tmp_path / "rewards.jsonl", rows)
    expected = f"'bad': expected a list of finite numbers, one per response token, got {got}$"
    if rewards is None:
        expected = "expected the key 'bad', got"
    with pytest.raises(ValueError, match=f"line 1: {expected}"):
        read_preferences(path, chosen_rewards="good", rejected_rewards="bad")
    assert read_preferences(path, chosen_rewards="good")[0]["chosen_token_rewards"] == [1.0, 2.5]


def test_read_texts_accepts_three_sets_of_columns(tmp_path: Path) -> None:
    rows = [{"text": "t"}, {"prompt": "p", "completion": "c"}, {"question": "q", "answer": "a"}]
    assert read_texts(write_jsonl(tmp_path / "t.jsonl", rows), separator="|").to_list() == [
        {"prompt": "", "completion": "t", "line": 1},
        {"prompt": "p|", "completion": "c", "line": 2},
        {"prompt": "q|", "completion": "a", "line": 3},
    ]
    with pytest.raises(ValueError, match=r"line 1: expected 'text', 'messages', .* got the columns \['body'\]"):
        read_texts(write_jsonl(tmp_path / "t.jsonl", [{"body": "t"}] * 2))
    with pytest.raises(ValueError, match=r"line 2: the text is empty"):
        read_texts(write_jsonl(tmp_path / "t.jsonl", [{"text": "t"}, {"text": ""}]))


def test_split_by_prompt_keeps_prompts_together_in_any_order() -> None:
    rows = [{"prompt": f"prompt {index // 3}", "n": index} for index in range(60)]

    def split(rows: list[dict[str, Any]], fraction: float, seed: int = 0) -> tuple[list[Any], list[Any]]:
        train, held_out = split_by_prompt(Dataset.from_list(rows), fraction, seed=seed)
        return train.to_list(), held_out.to_list()

    train, held_out = split(rows, 0.25)
    assert len(held_out) == 15
    assert len(train) == 45
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in held_out}
    train_again, held_out_again = split(rows[::-1], 0.25)
    assert (train_again[::-1], held_out_again[::-1]) == (train, held_out)
    assert split(rows, 0.25, seed=1)[1] != held_out
    assert split(rows, 0.0) == (rows, [])
    # A small share still holds out a prompt, a large one still leaves one.
    assert len(split(rows[:6], 0.01)[1]) == 3
    assert len(split(rows[:6], 0.99)[0]) == 3


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_split_by_prompt_refuses_fractions_outside_its_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"eval_fraction: expected 0 <= eval_fraction < 1, got"):
        split_by_prompt(Dataset.from_list([ROW]), fraction)


def test_split_by_prompt_needs_two_prompts() -> None:
    with pytest.raises(ValueError, match="eval_fraction: expected 0, since all rows share one prompt, got 0"):
        split_by_prompt(Dataset.from_list([ROW, ROW]), 0.5)


def test_encode_preferences_joins_prompt_response_and_eos() -> None:
    tokenizer = tiny_tokenizer()
    row = encode_preferences(pairs(), tokenizer, max_length=64)[0]
    assert tokenizer.decode(row["prompt_ids"]) == "say red 0:"
    assert tokenizer.decode(row["chosen_ids"]) == "red red<|end|>"
    assert tokenizer.decode(row["rejected_ids"]) == "blue blue blue<|end|>"


def test_encode_preferences_starts_with_the_bos_of_the_tokenizer() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = "<|pad|>"
    assert encode_preferences(pairs(), tokenizer, max_length=64)[0]["prompt_ids"][0] != tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|pad|> $A", special_tokens=[("<|pad|>", tokenizer.bos_token_id)]
    )
    whole = encode_preferences(pairs(), tokenizer, max_length=64)[0]
    assert whole["prompt_ids"].count(tokenizer.bos_token_id) == 1
    assert whole["prompt_ids"][0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in whole["chosen_ids"]
    # Trimming keeps it in front.
    short = encode_preferences(pairs(), tokenizer, max_length=len(whole["rejected_ids"]) + 4)[0]
    assert short["prompt_ids"] == [tokenizer.bos_token_id, *whole["prompt_ids"][-3:]]


def test_encode_preferences_trims_prompts_and_drops_long_responses(caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"prompt_ids": [1, 2, 3, 4, 5], "chosen_ids": [6, 7], "rejected_ids": [8]},
        {"prompt_ids": [1], "chosen_ids": [2, 3, 4, 5], "rejected_ids": [6]},
        {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]},
    ]
    with caplog.at_level(logging.WARNING):
        encoded = encode_preferences(rows, None, max_length=4, name="pairs")
    assert [row["prompt_ids"] for row in encoded] == [[4, 5], [1, 2]]
    assert caplog.messages == [
        "pairs: trimmed prompts, from the left, to fit 4 tokens: 1 of 3 ([0])",
        "pairs: dropped pairs with a response too long for max_length=4: 1 of 3 ([1])",
    ]
    with pytest.raises(
        ValueError,
        match=r"max_length: expected more than 4 tokens, the longest response of pairs, got 2: every pair was dropped",
    ):
        encode_preferences(rows, None, max_length=2, name="pairs")


def test_encode_preferences_refuses_pairs_that_cannot_be_trained_on() -> None:
    good = {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3]}
    for bad, message in (
        ({**good, "chosen_ids": []}, r"rows\[1\]: chosen: expected at least one token, got none"),
        ({**good, "prompt_ids": []}, r"rows\[1\]: the prompt has no tokens"),
        ({**good, "chosen_mask": [True, True, True]}, r"chosen_mask: expected 1 values.* got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            encode_preferences([good, bad], None, max_length=8)
    with pytest.raises(ValueError, match=r"rows: expected at least one preference pair, got none"):
        encode_preferences([], None, max_length=8)
    with pytest.raises(ValueError, match=r"rows\[0\]: expected 'prompt_ids'"):
        encode_preferences([ROW, ROW], None, max_length=8)


def test_encode_preferences_repeats_the_last_reward_for_the_eos() -> None:
    row = {"prompt_ids": [1], "chosen_ids": [2, 3, 4], "rejected_ids": [5], "line": 7}
    row |= {"chosen_token_rewards": [0.5, -1.0], "rejected_token_rewards": [2.0]}
    encoded = encode_preferences([row, row], None, max_length=8)[0]
    assert encoded["chosen_token_rewards"] == [0.5, -1.0, -1.0]
    assert encoded["rejected_token_rewards"] == [2.0]
    with pytest.raises(ValueError, match=r"the pair of line 7: chosen_token_rewards: expected 3 values.* got 1"):
        encode_preferences([{**row, "chosen_token_rewards": [1.0]}] * 2, None, max_length=8)


# --- columns ---------------------------------------------------------------------------------------------------------


def test_encode_preferences_keeps_masks_that_only_some_rows_have() -> None:
    rows = [
        {"prompt_ids": [1], "chosen_ids": [2, 3], "rejected_ids": [4]},
        {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [4, 5], "rejected_mask": [0, 1]},
    ]
    encoded = encode_preferences(rows, None, max_length=8)
    assert [row["rejected_mask"] for row in encoded] == [None, [False, True]]
    # A row without a mask trains on its whole response, whichever row comes first.
    for order in ([0, 1], [1, 0]):
        batch = PreferenceCollator()(encoded.select(order).with_format("numpy"))
        assert batch["loss_mask"][order.index(0), 1].tolist() == [False, True, False]
        assert batch["loss_mask"][order.index(1), 1].tolist() == [False, False, True]
        assert torch.equal(batch["loss_mask"][:, 0], batch["response_mask"][:, 0])


def test_collator_refuses_values_that_only_some_rows_have() -> None:
    row = {"prompt_ids": [1], "response_ids": [2]}
    for rows in ([row, {**row, "reward": 1.0}], [{**row, "reward": 1.0}, row]):
        with pytest.raises(ValueError, match="reward: expected a value in every row of a batch, got 1 in 2 rows"):
            ResponseCollator()(rows)
    with pytest.raises(ValueError, match="token_rewards: expected a value in every row of a batch, got 1 in 2 rows"):
        ResponseCollator()([{**row, "token_rewards": [0.5]}, {**row, "token_rewards": None}])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt_ids": ["a"]}, r"rows\[1\]: prompt_ids: expected list<.*int32>, got \['a'\]"),
        ({"chosen_token_rewards": 1.5}, r"rows\[1\]: chosen_token_rewards: expected list<.*double>, got 1\.5"),
        ({"prompt": 3}, r"rows\[1\]: prompt: expected string, got 3"),
    ],
)
def test_encode_preferences_names_the_row_of_a_wrong_type(row: dict[str, Any], message: str) -> None:
    good = {"prompt": "p", "prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3], "chosen_token_rewards": [1.0]}
    with pytest.raises(ValueError, match=message):
        encode_preferences([good, {**good, **row}], None, max_length=8)


@pytest.mark.parametrize("kind", ["dataset", "selected", "torch", "arrays", "iterator"])
def test_encode_preferences_accepts_rows_in_any_container(kind: str) -> None:
    lists = [
        {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5], "chosen_token_rewards": [0.1], "note": {1}},
        {"prompt_ids": [6], "chosen_ids": [7, 8], "rejected_ids": [9], "chosen_token_rewards": [0.2, -0.5], "note": 2},
    ]
    plain = [{name: row[name] for name in row if name != "note"} for row in lists]
    rows: Any = {
        "dataset": lambda: Dataset.from_list(plain),
        "selected": lambda: Dataset.from_list(plain[::-1]).select([1, 0]),
        "torch": lambda: Dataset.from_list(plain).with_format("torch"),
        "arrays": lambda: [{name: np.array(values) for name, values in row.items()} for row in lists],
        "iterator": lambda: iter(lists),
    }[kind]()
    encoded = encode_preferences(rows, None, max_length=8)
    assert encoded.to_list() == plain
    assert encoded.features == subset(PAIRS, plain[0])


def test_flat_sides_literals() -> None:
    rows = [
        {"chosen_token_rewards": [1.0, 2.0], "rejected_token_rewards": [3.0]},
        {"chosen_token_rewards": [4.0], "rejected_token_rewards": [5.0, 6.0]},
    ]
    dataset = to_dataset(rows[::-1], PAIRS).select([1, 0])
    flat = flat_sides(dataset, "token_rewards")
    assert flat.values.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert flat.lengths.tolist() == [2, 1, 1, 2]
    assert flat.offsets.tolist() == [0, 2, 3, 4, 6]
    columns = columns_of_sides("mask", FlatLists(flat.values > 2, flat.lengths))
    assert with_columns(dataset, columns, PAIRS).to_list() == [
        {**rows[0], "chosen_mask": [False, False], "rejected_mask": [True]},
        {**rows[1], "chosen_mask": [True], "rejected_mask": [True, True]},
    ]


def test_data_sets_leave_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", pairs(19))
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home)
    monkeypatch.setattr(datasets.fingerprint, "_TEMP_DIR_FOR_TEMP_CACHE_FILES", None)
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    train, _ = split_by_prompt(read_preferences(path), 0.2)
    encoded = encode_preferences(train, tiny_tokenizer(), max_length=64)
    assert len(encoded) == 15
    assert [data.cache_files for data in (train, encoded)] == [[], []]
    assert capsys.readouterr().err == ""
    assert [file for file in home.rglob("*") if file.is_file()] == []


# --- collators -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "at"), [("right", 0), ("left", 1)])
def test_preference_collator_literals(side: str, at: int) -> None:
    row = {
        "prompt_ids": [1, 2],
        "chosen_ids": [3, 4],
        "rejected_ids": [5, 6, 7],
        "chosen_token_rewards": [0.5, 1.5],
        "rejected_token_rewards": [1.0, 2.0, 3.0],
        "chosen_mask": [True, False],
        "rejected_mask": [False, False, True],
        "ref_logprobs": [-1.0, -2.0],
    }
    batch = PreferenceCollator(pad_token_id=9, padding_side=side)([row])
    chosen = {
        "input_ids": [[1, 2, 3, 4, 9], [9, 1, 2, 3, 4]],
        "attention_mask": [[1, 1, 1, 1, 0], [0, 1, 1, 1, 1]],
        "position_ids": [[0, 1, 2, 3, 3], [0, 0, 1, 2, 3]],
        "response_mask": [[0, 0, 1, 1, 0], [0, 0, 0, 1, 1]],
        "loss_mask": [[0, 0, 1, 0, 0], [0, 0, 0, 1, 0]],
        "token_rewards": [[0, 0, 0.5, 1.5, 0], [0, 0, 0, 0.5, 1.5]],
    }
    for name, expected in chosen.items():
        assert batch[name].shape == (1, 2, 5)
        assert batch[name][0, 0].tolist() == expected[at], name
    assert batch["input_ids"][0, 1].tolist() == [1, 2, 5, 6, 7]
    assert batch["loss_mask"][0, 1].tolist() == [False, False, False, False, True]
    assert batch["ref_logprobs"].tolist() == [[-1.0, -2.0]]
    assert batch["loss_mask"].dtype == torch.bool


def test_collator_padding_side_changes_no_logits() -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_lm(tokenizer).eval()
    rows = encode_preferences(pairs(6), tokenizer, max_length=64)
    logits = {}
    for side in ("left", "right"):
        batch = PreferenceCollator(pad_token_id=0, padding_side=side)(rows)
        with torch.no_grad():
            logits[side] = model_logits(model, batch)[batch["response_mask"].flatten(0, 1)]
    torch.testing.assert_close(logits["left"], logits["right"], rtol=1e-4, atol=1e-5)


def test_encode_texts_packs_texts_with_an_eos_after_each() -> None:
    tokenizer = tiny_tokenizer()
    rows = [{"prompt": "say ", "completion": "red"}, {"prompt": "", "completion": "blue green white"}]
    blocks = encode_texts(rows, tokenizer, max_length=5).to_list()
    assert [len(block["input_ids"]) for block in blocks[:-1]] == [5] * (len(blocks) - 1)
    stream = [token for block in blocks for token in block["input_ids"]]
    whole = "say red<|end|>blue green white<|end|>"
    # A last block of one token would predict nothing, and is left out.
    assert whole.startswith(tokenizer.decode(stream))
    assert sum(len(tokenizer(row[name])["input_ids"]) for row in rows for name in ("prompt", "completion")) + 2 in (
        len(stream),
        len(stream) + 1,
    )


def test_read_prompts_reads_distinct_prompts_from_either_column(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "a", "chosen": "x", "rejected": "y"}, {"question": "b", "answer": "z"}, {"prompt": "a"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_prompts(path, separator="\n").to_list() == [{"prompt": "a\n", "line": 1}, {"prompt": "b\n", "line": 2}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "a"}], "line 1: expected the key 'prompt'"),
        ([{"prompt": ""}], "line 1: the prompt is empty"),
        ([{"prompt": "a"}, {"prompt": "a"}], "expected at least 2 distinct prompts, got 1"),
    ],
)
def test_read_prompts_names_the_bad_line(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_prompts(path)


def test_encode_prompts_trims_the_oldest_tokens(caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt_ids": [1, 2, 3, 4]}, {"prompt_ids": [5, 6]}]
    with caplog.at_level(logging.WARNING):
        assert encode_prompts(rows, None, max_length=2).to_list() == [{"prompt_ids": [3, 4]}, {"prompt_ids": [5, 6]}]
    assert caplog.messages == ["prompts: trimmed prompts, from the left, to fit 2 tokens: 1 of 2 ([0])"]
    with pytest.raises(ValueError, match=r"prompts\[1\]: expected at least one token, got none"):
        encode_prompts([{"prompt_ids": [1]}, {"prompt_ids": []}], None, max_length=2)


@pytest.mark.parametrize(("side", "at"), [("right", 0), ("left", 2)])
def test_response_collator_literals(side: str, at: int) -> None:
    rows = [
        {"prompt_ids": [1], "response_ids": [2], "mask": [True], "token_rewards": [0.5]},
        {"prompt_ids": [3, 4], "response_ids": [5, 6], "mask": [False, True], "token_rewards": [1.5, -1.0]},
    ]
    batch = ResponseCollator(pad_token_id=9, padding_side=side)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 9, 9] if at == 0 else [9, 9, 1, 2], [3, 4, 5, 6]]
    assert batch["attention_mask"][0, at : at + 2].tolist() == [1, 1]
    assert batch["attention_mask"].sum(1).tolist() == [2, 4]
    assert batch["position_ids"][0, at : at + 2].tolist() == [0, 1]
    assert batch["response_mask"].int().tolist() == [[0, 1, 0, 0] if at == 0 else [0, 0, 0, 1], [0, 0, 1, 1]]
    assert batch["loss_mask"].int().tolist() == [[0, 1, 0, 0] if at == 0 else [0, 0, 0, 1], [0, 0, 0, 1]]
    assert batch["token_rewards"][1].tolist() == [0.0, 0.0, 1.5, -1.0]
    # Without a mask of its own every response token counts.
    bare = ResponseCollator()([{"prompt_ids": [1], "response_ids": [2, 3]}])
    assert bare["loss_mask"].tolist() == bare["response_mask"].tolist() == [[False, True, True]]
