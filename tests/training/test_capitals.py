"""The main job: its task and verifier by hand, and the whole of it at its smallest."""

import json
import random
import re

import pytest

pytest.importorskip("transformers")
pytest.importorskip("rich")

from examples.capitals.__main__ import main, new_folder
from examples.capitals.measure import COLUMNS, moved_right
from examples.capitals.pairs import Pair, is_well_formed
from examples.capitals.task import (
    CAPITALS,
    EOS,
    answer_text,
    draw_countries,
    grade,
    make_tokenizer,
    noisy_answer,
    prompt_text,
    score,
    token_credit,
)


def test_the_verifier_grades_every_part_in_its_place():
    countries = ("Peru", "Iran", "Latvia")
    assert grade(countries, "Lima; Tehran; Riga; ") == (True, True, True)
    assert grade(countries, "Lima; Baghdad; Vilnius; ") == (True, False, False)
    assert grade(countries, "Tehran; Lima; Riga; ") == (False, False, True)
    assert grade(countries, "Lima; Teh") == (True, False)
    assert grade(countries, "Lima; ") == (True,)
    assert grade(countries, "") == ()


def test_a_wrong_part_costs_what_a_right_one_earns():
    countries = ("Peru", "Iran", "Latvia")
    assert [score(countries, right) for right in ((), (True,), (True, False), (False, False, True))] == [0, 1, 0, -1]


def test_the_starred_part_outweighs_all_others():
    countries = ("Peru", "*Iran", "Latvia")
    assert prompt_text(countries) == "Peru, *Iran, Latvia? "
    assert grade(countries, "Lima; Tehran; Vilnius; ") == (True, True, False)
    assert score(countries, (False, True, False)) == 1  # -1 + 3 - 1
    assert score(countries, (True, False, True)) == -1
    assert score(countries, (True,)) == 1  # cut off before the starred part
    starred = [draw_countries(random.Random(seed), 3, key=True) for seed in range(50)]
    assert all([country.startswith("*") for country in countries].count(True) == 1 for countries in starred)
    assert {next(i for i, country in enumerate(row) if country.startswith("*")) for row in starred} == {0, 1, 2}


def test_the_star_is_a_token_of_its_own():
    tokenizer = make_tokenizer(key=True)
    ids = tokenizer("Peru, *Iran? ")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["Peru", ", ", "*", "Iran", "? "]
    assert tokenizer.decode(ids) == "Peru, *Iran? "


def test_credit_belongs_to_the_part_a_token_is_in():
    assert token_credit(["Lima", "; ", "Cusco", "; ", "Riga"], [True, False, True]) == [1, 1, -1, -1, 1]


def test_every_mistake_is_wrong_and_every_name_is_one_token():
    tokenizer = make_tokenizer()
    for country, (capital, mistake) in CAPITALS.items():
        assert capital != mistake
        for name in (country, capital, mistake):
            ids = tokenizer(name)["input_ids"]
            assert len(ids) == 1
            assert ids[0] != tokenizer.unk_token_id


def test_the_tokenizer_gives_text_back_as_it_was():
    tokenizer = make_tokenizer()
    text = prompt_text(["Peru", "Iran"]) + answer_text(["Lima", "Baghdad"])
    assert text == "Peru, Iran? Lima; Baghdad; "
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["Peru", ", ", "Iran", "? ", "Lima", "; ", "Baghdad", "; "]
    assert tokenizer.decode(ids) == text


def test_the_start_texts_hold_mistakes_at_their_rates():
    rng = random.Random(0)
    first, fourth = sorted(CAPITALS)[0], sorted(CAPITALS)[3]  # 10 % and 70 % of mistakes
    answers = [grade((first, fourth), noisy_answer(rng, (first, fourth))) for _ in range(2000)]
    # Five standard deviations of a share among 2000.
    assert sum(right[0] for right in answers) / 2000 == pytest.approx(0.9, abs=0.034)
    assert sum(right[1] for right in answers) / 2000 == pytest.approx(0.3, abs=0.052)


def test_a_prompt_names_no_country_twice():
    rng = random.Random(0)
    assert all(len(set(draw_countries(rng, 4))) == 4 for _ in range(200))


def test_malformed_answers_are_known():
    assert is_well_formed(["Lima", "; ", "Tehran", "; "], 2)
    for answer in (["Lima", "; "], ["Lima", "; ", "; ", "Tehran"], ["Lima", "; ", EOS, "; "], []):
        assert not is_well_formed(answer, 2)


def test_a_pair_counts_the_parts_that_contradict_it():
    pair = Pair(("Peru", "Iran"), chosen="Lima; Baghdad; ", rejected="Cusco; Tehran")
    assert pair.contradiction == 0.5  # Baghdad was preferred, Tehran was not
    assert Pair(("Peru", "Iran"), chosen="Lima", rejected="Cusco").contradiction == 0.0


def test_moving_right_means_up_where_right_and_down_where_wrong():
    pair = Pair(("Peru", "Iran"), chosen="Lima; Baghdad", rejected="Cusco")
    assert moved_right([[-1.0, -1.0, -1.0]], [[-0.5, -2.0, -2.0]], [pair]) == 1.0
    assert moved_right([[-1.0, -1.0, -1.0]], [[-2.0, -0.5, -1.0]], [pair]) == 0.0


def test_a_run_takes_the_next_folder_whatever_a_killed_one_left(tmp_path):
    (tmp_path / "001").mkdir()
    (tmp_path / "001" / "half.bin").write_bytes(b"killed here")
    (tmp_path / "notes").mkdir()
    assert new_folder(tmp_path).name == "002"
    (tmp_path / "041").mkdir()
    assert new_folder(tmp_path).name == "042"
    assert (tmp_path / "001" / "half.bin").read_bytes() == b"killed here"


@pytest.fixture(scope="module")
def quick_runs(tmp_path_factory):
    """Two runs of one seed, the second on top of the first."""
    output = tmp_path_factory.mktemp("demo")
    for _ in range(2):
        assert main(["--quick", "--output", str(output)]) == 0
    return output


def summary(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", html)
    return [[name, *re.findall(r"<td>(.*?)</td>", cells)] for name, cells in rows]


def test_the_quick_job_ends_in_a_report_with_every_measure(quick_runs):
    html = (quick_runs / "001" / "report.html").read_text(encoding="utf-8")
    rows = summary(html)
    assert [row[0].split(" (")[0] for row in rows[:3]] == [
        "held-out answers all right",
        "held-out parts right",
        "held-out pairs",
    ]
    assert all(len(row) == len(COLUMNS) for row in rows)
    start, dpo, segment = (float(cell.split(" ")[0]) for cell in rows[1][1:])
    # The start model has learnt the task, mistakes included; a guess would be right 1 time in 60.
    assert 30 < start < 90
    assert start not in (dpo, segment)
    tokens_dpo, tokens_segment = (float(cell.split(" ")[0]) for cell in rows[2][2:])
    assert tokens_dpo == 100
    assert 0 < tokens_segment < 100
    assert html.count("<article") > 0


def test_the_same_seed_gives_the_same_result(quick_runs):
    first, second = ((quick_runs / name / "report.html").read_text(encoding="utf-8") for name in ("001", "002"))
    assert summary(first) == summary(second)


def test_the_preferences_are_what_the_verifier_says(quick_runs):
    lines = (quick_runs / "001" / "preferences.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 50
    for row in map(json.loads, lines):
        countries = row["prompt"].removesuffix("? ").split(", ")
        chosen, rejected = (score(countries, grade(countries, row[side])) for side in ("chosen", "rejected"))
        assert chosen > rejected
