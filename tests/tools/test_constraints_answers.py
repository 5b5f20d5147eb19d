"""Rules, credit, pairs and measures of the experiment on constraints, by hand."""

import pytest

pytest.importorskip("transformers")
pytest.importorskip("tabulate")

from benchmarks.experiments import __main__ as command
from benchmarks.experiments.constraints import grammar
from benchmarks.experiments.constraints.answers import Answer, shares_met
from benchmarks.experiments.constraints.experiment import EXPERIMENT
from benchmarks.experiments.constraints.measures import measure_answers
from benchmarks.experiments.constraints.pairs import Pair, judge, make_pairs
from benchmarks.experiments.constraints.prompts import TOPICS, Prompt
from benchmarks.experiments.constraints.rules import token_credit, violations
from benchmarks.experiments.constraints.settings import ConstraintsSettings
from benchmarks.experiments.constraints.workspace import ConstraintsWorkspace

GOOD = "Rivers carry water down from hills. They feed towns and fields on every side."


def answer(text: str, ended: bool = True) -> Answer:
    return Answer(tuple(range(len(text.split()))), text, ended)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Close to the sun, rising over an extraordinary sea", (1, 1, 1, 1)),
        ("To and fro, up, down", (2, 1, 0, 0)),
        ("Into tomorrow's tools", (0, 0, 0, 0)),  # "to" inside of words
        ("butterflys strawberries", (0, 0, 1, 0)),  # 10 and 12 letters
        ("abcdefghijk abcdefghi1jk sugar-free-bakeries", (0, 0, 1, 0)),  # 11 letters; digits and hyphens end a word
        ("Ring ing Singing kings", (0, 0, 0, 2)),  # a word of the letters "ing" only has no stem
        ("INTERESTING", (0, 0, 1, 1)),
        ("", (0, 0, 0, 0)),
    ],
)
def test_violations_literals(text, expected):
    assert violations(text) == expected


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["To", " sun", ",", " shin", "ing"], [-1, 1, -1, -1, -1]),
        # "to" across two tokens, and the first letters of a word that is none.
        (["t", "o", " go", " to", "wn"], [-1, -1, 1, 1, 1]),
        # One token with the end of a violation and the start of a right word.
        (["extra", "ordinar", "y s", "ea"], [-1, -1, -1, 1]),
        # A violation's neighbors and an empty token, such as the EOS, have positive credit.
        (["a", ",", "b", ""], [1, -1, 1, 1]),
        ([], []),
    ],
)
def test_token_credit_literals(pieces, expected):
    assert token_credit(pieces) == expected


@pytest.mark.parametrize(
    ("text", "ended", "expected"),
    [
        (GOOD, True, True),
        (GOOD, False, False),  # cut off
        ("one two three four five six seven eight nine ten eleven.", True, False),
        ("one two three four five six seven eight nine ten eleven twelve.", True, True),
        (GOOD.removesuffix("."), True, False),
        (GOOD + ' "Yes!"', True, True),
        ("- " + GOOD + "\n- More.", True, False),
        ("**" + GOOD, True, False),
        ("Café " + GOOD, True, False),
        ("the sea is " * 2 + GOOD, True, True),
        ("the sea is " * 3 + GOOD, True, False),
    ],
)
def test_well_formed_literals(text, ended, expected):
    assert answer(text, ended).is_well_formed is expected


def test_judge_lets_the_first_rule_outweigh_the_others():
    breaks_first, breaks_others = answer("Ships, boats"), answer("to an extraordinary spring")
    assert [judge(Prompt("Why?", first=0), one) for one in (breaks_first, breaks_others)] == [3.0, 3.5]
    assert [judge(Prompt("Why?", first=1), one) for one in (breaks_first, breaks_others)] == [5.5, 1.0]


def test_pairs_literals():
    prompt = Prompt("Why?", first=0)
    clean = answer(GOOD)
    comma = answer("Rivers carry water, down from hills. They feed towns and fields on every side.")
    # The first rule is met, but three words violate two others.
    worse = answer("Rivers come to an extraordinary sea to feed towns and fields on every side.")
    short = answer("No.")
    pairs = make_pairs([(prompt, [comma, worse, short]), (prompt, [clean, clean])], seed=0)
    assert pairs == [Pair(prompt, chosen=worse, rejected=comma)]
    (pair,) = pairs
    assert pair.contradiction == 3 / 4
    assert pair.is_adversarial
    # As many violations on both sides: no contradiction of most of them.
    tie = Pair(prompt, chosen=answer("to"), rejected=answer("a,"))
    assert tie.contradiction == 1 / 2
    assert not tie.is_adversarial
    assert Pair(prompt, clean, clean).contradiction == 0
    assert len(make_pairs([(prompt, [clean, comma, worse])], seed=0)) == 3


def test_prompts_hold_out_every_fourth_topic(tmp_path):
    work = ConstraintsWorkspace(ConstraintsSettings(), tmp_path, seed=1)
    held_out = TOPICS[3::4]
    for prompt in work.prompts("test", 200, held_out=True):
        assert any(topic in prompt.request for topic in held_out)
    for prompt in work.prompts("test", 200):
        (topic,) = {max((topic for topic in TOPICS if topic in prompt.request), key=len)}
        assert topic not in held_out
    assert work.prompts("test", 5) == work.prompts("test", 5)
    assert work.prompts("test", 5) != ConstraintsWorkspace(ConstraintsSettings(), tmp_path, seed=2).prompts("test", 5)
    messages = Prompt("Why?", first=1).messages
    assert messages[1] == {"role": "user", "content": "Why?"}
    assert messages[0]["content"].endswith('words in "-ing". Above all, no "to".')


def test_answer_measures_literals():
    comma_and_to = answer("Rivers, that go to the hills. They feed towns and fields on every side.")
    cut = answer(GOOD, ended=False)
    assert shares_met([comma_and_to, cut]) == {
        "no commas": 0.5,
        'no "to"': 0.5,
        "no long words": 1.0,
        'no "-ing"': 1.0,
        "all": 0.5,
    }
    assert measure_answers([comma_and_to, cut]) == {
        "met": 0.25,  # (2 of 4, and 0 for the answer that was cut off) / 2
        "all_met": 0.0,
        "malformed": 0.5,
        "length": 14.0,
        "no commas": 0.5,
        'no "to"': 0.5,
        "no long words": 1.0,
        'no "-ing"': 1.0,
    }


def test_grammar_lints_count_errors_but_no_style_and_no_missing_commas():
    pytest.importorskip("harper")
    assert grammar.lints_per_100_words([GOOD]) == 0
    # "an test", "the the", and "could of" in 10 + 4 + 14 words.
    texts = ["This is an test of the the linter we use.", "We could of gone.", GOOD]
    assert grammar.lints_per_100_words(texts) == pytest.approx(100 * 3 / 28)
    assert grammar.lints_per_100_words(["This is a very good test."]) == 0  # "excellent" is a matter of taste
    assert grammar.lints_per_100_words(["We grow apples, pears and plums."]) == 0  # the Oxford comma
    assert grammar.lints_per_100_words([""]) is None


def test_grammar_lints_are_not_measured_without_the_package(monkeypatch):
    monkeypatch.setattr(grammar, "linter", lambda: None)
    assert grammar.lints_per_100_words([GOOD]) is None
    monkeypatch.setattr(command, "installed_versions", lambda name: {})
    assert command.missing_packages(EXPERIMENT) == [
        "grammar lints: not measured, since the package harper-py is not installed"
    ]
    monkeypatch.setattr(command, "installed_versions", lambda name: {name: "0.2.0"})
    assert command.missing_packages(EXPERIMENT) == []
