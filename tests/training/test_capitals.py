"""The capitals example: task and verifier on hand-written cases, and the whole comparison at minimal size."""

import io
import json
import random
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from examples.capitals.__main__ import main, new_folder
from examples.capitals.answers import Accuracy, accuracy
from examples.capitals.comparison import Run, conclusion
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
from examples.capitals.training import Settings
from examples.common.estimates import Estimate, difference, estimate
from tests.quiet import restored_after_quiet

pytestmark = pytest.mark.charts


def test_grade_literals():
    countries = ("Peru", "Iran", "Latvia")
    assert grade(countries, "Lima; Tehran; Riga; ") == (True, True, True)
    assert grade(countries, "Lima; Baghdad; Vilnius; ") == (True, False, False)
    assert grade(countries, "Tehran; Lima; Riga; ") == (False, False, True)
    assert grade(countries, "Lima; Teh") == (True, False)
    assert grade(countries, "Lima; ") == (True,)
    assert grade(countries, "") == ()


def test_score_without_star_is_right_minus_wrong():
    countries = ("Peru", "Iran", "Latvia")
    assert [score(countries, right) for right in ((), (True,), (True, False), (False, False, True))] == [0, 1, 0, -1]


def test_score_starred_part_outweighs_all_others():
    countries = ("Peru", "*Iran", "Latvia")
    assert prompt_text(countries) == "Peru, *Iran, Latvia? "
    assert grade(countries, "Lima; Tehran; Vilnius; ") == (True, True, False)
    assert score(countries, (False, True, False)) == 1  # -1 + 3 - 1
    assert score(countries, (True, False, True)) == -1
    assert score(countries, (True,)) == 1  # truncated before the starred part
    starred = [draw_countries(random.Random(seed), 3) for seed in range(50)]
    assert all([country.startswith("*") for country in countries].count(True) == 1 for countries in starred)
    assert {next(i for i, country in enumerate(row) if country.startswith("*")) for row in starred} == {0, 1, 2}


def test_tokenizer_star_is_one_token():
    tokenizer = make_tokenizer()
    ids = tokenizer("Peru, *Iran? ")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["Peru", ", ", "*", "Iran", "? "]
    assert tokenizer.decode(ids) == "Peru, *Iran? "


def test_token_credit_literals():
    assert token_credit(["Lima", "; ", "Cusco", "; ", "Riga"], [True, False, True]) == [1, 1, -1, -1, 1]


def test_tokenizer_every_name_is_one_token():
    tokenizer = make_tokenizer()
    for country, (capital, mistake) in CAPITALS.items():
        assert capital != mistake
        for name in (country, capital, mistake):
            ids = tokenizer(name)["input_ids"]
            assert len(ids) == 1
            assert ids[0] != tokenizer.unk_token_id


def test_tokenizer_decoding_restores_the_text():
    tokenizer = make_tokenizer()
    text = prompt_text(["Peru", "Iran"]) + answer_text(["Lima", "Baghdad"])
    assert text == "Peru, Iran? Lima; Baghdad; "
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["Peru", ", ", "Iran", "? ", "Lima", "; ", "Baghdad", "; "]
    assert tokenizer.decode(ids) == text


def test_noisy_answer_mistakes_have_their_rates():
    rng = random.Random(0)
    first, fourth = sorted(CAPITALS)[0], sorted(CAPITALS)[3]  # 10 % and 70 % of mistakes
    answers = [grade((first, fourth), noisy_answer(rng, (first, fourth))) for _ in range(2000)]
    # Five standard deviations of a share among 2000.
    assert sum(right[0] for right in answers) / 2000 == pytest.approx(0.9, abs=0.034)
    assert sum(right[1] for right in answers) / 2000 == pytest.approx(0.3, abs=0.052)


def test_draw_countries_are_distinct():
    rng = random.Random(0)
    assert all(len({country.strip("*") for country in draw_countries(rng, 4)}) == 4 for _ in range(200))


def test_is_well_formed_literals():
    assert is_well_formed(["Lima", "; ", "Tehran", "; "], 2)
    for answer in (["Lima", "; "], ["Lima", "; ", "; ", "Tehran"], ["Lima", "; ", EOS, "; "], []):
        assert not is_well_formed(answer, 2)


def test_contradiction_literals():
    pair = Pair(("Peru", "Iran"), chosen="Lima; Baghdad; ", rejected="Cusco; Tehran")
    assert pair.contradiction == 0.5  # Baghdad was preferred, Tehran was not
    assert Pair(("Peru", "Iran"), chosen="Lima", rejected="Cusco").contradiction == 0.0


def test_row_ends_with_eos():
    tokenizer = make_tokenizer()
    pair = Pair(("Peru", "*Iran"), chosen="Lima; Tehran; ", rejected="Lima; Baghdad; ")
    row = {name: tokenizer.convert_ids_to_tokens(ids) for name, ids in pair.row(tokenizer).items()}
    assert row == {
        "prompt_ids": ["Peru", ", ", "*", "Iran", "? "],
        "chosen_ids": ["Lima", "; ", "Tehran", "; ", EOS],
        "rejected_ids": ["Lima", "; ", "Baghdad", "; ", EOS],
    }


def test_adversarial_pairs_are_those_of_all_samples():
    countries = ("*Peru", "Iran", "Latvia")
    plain = Pair(countries, chosen="Lima; Tehran; Riga; ", rejected="Cusco; Tehran; Riga; ")
    adversarial = Pair(countries, chosen="Lima; Baghdad; Vilnius; ", rejected="Cusco; Tehran; Riga; ")
    run = Run(Path(), Settings(policy_pairs=2), pairs=[plain, plain, adversarial, adversarial])
    assert run.policy_pairs("all pairs") == [plain, plain]
    assert run.policy_pairs("adversarial pairs") == [adversarial, adversarial]


def test_accuracy_malformed_answer_has_no_right_part():
    questions = [("*Peru", "Iran"), ("Peru", "*Iran"), ("*Peru", "Iran"), ("Peru", "*Iran")]
    grades = [(True, True), (True, False), None, (False, True)]
    assert accuracy(questions, grades) == Accuracy(4 / 8, 1 / 4, 2 / 4, 1 / 4)


def test_estimate_literals():
    # Student's t with 4 degrees of freedom at 97.5 %: 2.7764; standard deviation of 1..5: sqrt(2.5) = 1.5811.
    center, half_width = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert center == 3.0
    assert half_width == pytest.approx(2.7764 * 1.5811 / 5**0.5, abs=1e-3)
    assert estimate([0.25]) == Estimate(0.25, None)
    assert estimate([0.25, 0.25, 0.25]) == Estimate(0.25, 0.0)
    assert estimate([0.25]).sign == 0


def test_difference_is_paired():
    # The runs differ by far more than the two methods do.
    paired = difference([0.25, 0.5, 0.75], [0.125, 0.375, 0.5])
    assert paired.mean == pytest.approx(0.16667, abs=1e-5)
    assert paired.half_width == pytest.approx(0.17928, abs=1e-4)  # 4.3027 * 0.072169 / sqrt(3)
    assert paired.sign == 0
    assert difference([0.5, 0.625, 0.75], [0.25, 0.375, 0.5]).sign == 1
    assert difference([0.25, 0.375, 0.5], [0.5, 0.625, 0.75]).sign == -1


def test_conclusion_names_a_loss_and_a_tie():
    gains = {"adversarial pairs": Estimate(-0.25, 0.1), "all pairs": Estimate(0.02, 0.03)}
    assert conclusion(gains) == (
        "ASR-DPO against DPO: 25.0 ± 10.0 points fewer parts right after adversarial pairs, 2.0 ± 3.0 points more "
        "parts right (not significant) after all pairs."
    )
    gains = {"adversarial pairs": Estimate(0.7, None), "all pairs": Estimate(0.0, None)}
    assert conclusion(gains) == (
        "ASR-DPO against DPO, one run without intervals: 70.0 points more parts right after adversarial pairs, no "
        "difference after all pairs."
    )


def test_conclusion_of_a_difference_that_rounds_to_zero():
    gains = {"adversarial pairs": Estimate(0.0004, 0.02), "all pairs": Estimate(-0.0004, 0.0)}
    assert conclusion(gains) == (
        "ASR-DPO against DPO: no difference (0.0 ± 2.0 points) after adversarial pairs, no difference (0.0 ± 0.0 "
        "points) after all pairs."
    )


def test_new_folder_leaves_existing_folders_alone(tmp_path):
    (tmp_path / "001").mkdir()
    (tmp_path / "001" / "half.bin").write_bytes(b"killed here")
    (tmp_path / "notes").mkdir()
    assert new_folder(tmp_path).name == "002"
    (tmp_path / "041").mkdir()
    assert new_folder(tmp_path).name == "042"
    assert (tmp_path / "001" / "half.bin").read_bytes() == b"killed here"


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder of two quick comparisons with the same seed, and the output of the second."""
    output = tmp_path_factory.mktemp("capitals")
    # `main` silences the process that it has to itself.
    with restored_after_quiet():
        for _ in range(2):
            printed, errors = io.StringIO(), io.StringIO()
            with redirect_stdout(printed), redirect_stderr(errors):
                assert main(["--quick", "--output", str(output)]) == 0
    return output, printed.getvalue(), errors.getvalue()


def summary(folder) -> list[list[str]]:
    html = (folder / "report.html").read_text(encoding="utf-8")
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", html)
    return [[name, *re.findall(r"<td>(.*?)</td>", cells)] for name, cells in rows]


@pytest.mark.slow
def test_quick_comparison_prints_stages_table_and_report(quick):
    output, printed, errors = quick
    assert errors == ""
    lines = printed.splitlines()
    assert [line[:4] for line in lines[1:6]] == ["1/5 ", "2/5 ", "3/5 ", "4/5 ", "5/5 "]
    assert all(re.search(r", \d+ s$", line) for line in lines[1:6])
    assert "{" not in printed
    assert all(len(line) <= 80 for line in lines[:-1])
    assert lines[-1] == f"report: {output / '002' / 'report.html'}"
    table = {line[:15].strip(): line for line in lines}
    for name, *cells in summary(output / "002"):
        assert all(cell in table[name] for cell in cells)
    assert sorted(path.name for path in (output / "002").iterdir()) == [
        "figures.json",
        "report.html",
        "seed-20",
        "seed-21",
    ]


@pytest.mark.slow
def test_quick_report_rows(quick):
    output, *_ = quick
    rows = summary(output / "001")
    assert [row[0] for row in rows] == ["start model", "DPO", "ASR-DPO"]
    assert all(re.fullmatch(r"\d+\.\d ± \d+\.\d", cell) for row in rows for cell in row[1:])
    (start, *_), (dpo, *_), (asr, *_) = ([float(cell.split(" ")[0]) for cell in row[1:]] for row in rows)
    # The start model has learned the task, mistakes included; a guess would be right 1 time in 60.
    assert 15 < start < 90
    assert start not in (dpo, asr)
    assert (output / "001" / "report.html").read_text(encoding="utf-8").count("<article") > 0


@pytest.mark.slow
def test_quick_comparison_is_reproducible(quick):
    output, *_ = quick
    assert summary(output / "001") == summary(output / "002")


@pytest.mark.slow
def test_preferences_are_ranked_by_the_verifier(quick):
    lines = (quick[0] / "001" / "seed-20" / "preferences.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) > 50
    for row in map(json.loads, lines):
        countries = row["prompt"].removesuffix("? ").split(", ")
        chosen, rejected = (score(countries, grade(countries, row[side])) for side in ("chosen", "rejected"))
        assert chosen > rejected
        assert len(countries) == row["chosen"].count("; ") == row["rejected"].count("; ")
