"""Answers in segments: runs, files and pictures."""

from dataclasses import replace

import pytest

pytest.importorskip("transformers")
pytest.importorskip("tabulate")

from matplotlib.colors import to_rgba
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from benchmarks.experiments.constraints.segmented import (
    ADVANCE,
    COLORS,
    END,
    KEY,
    LEADING,
    SegmentedAnswer,
    draw_answers,
    read_answers,
    save_png,
    write_answers,
)

SEGMENTED = SegmentedAnswer(
    "Why?", "rejected", ("Go", " to", " the", " shin", "ing", " $ea$", END), ((0, 1, 0), (1, 4, 1), (4, 7, -1))
)


def test_runs_of_a_segmented_answer_are_cut_at_segments_and_violations():
    assert [(SEGMENTED.text[run.start : run.end], *run[2:]) for run in SEGMENTED.runs()] == [
        ("Go", 0, False, True),
        (" ", 1, False, True),
        ("to", 1, True, False),
        (" the ", 1, False, False),
        ("shin", 1, True, False),
        ("ing", -1, True, True),  # the rest of the violation, in the next segment
        (f" $ea${END}", -1, False, False),
    ]


def test_segmented_answers_survive_their_file(tmp_path):
    write_answers(tmp_path / "answers.json", [SEGMENTED, replace(SEGMENTED, side="chosen")])
    assert len((tmp_path / "answers.json").read_text().splitlines()) == 4
    assert read_answers(tmp_path / "answers.json") == [SEGMENTED, replace(SEGMENTED, side="chosen")]


def test_picture_of_answers_shows_texts_colors_and_underlines():
    long = replace(SEGMENTED, tokens=tuple(" word" for _ in range(50)), segments=((0, 50, 1),))
    (axes,) = draw_answers([SEGMENTED, long]).axes
    assert [text.get_text() for text in axes.texts][4:] == [
        "rejected: Why?",
        f"Go to the shining $ea${END}",
        "rejected: Why?",
        *(text.rstrip() for text in (" word" * 11, *["word " * 11] * 3, "word " * 6)),
    ]
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)][3:]  # after those of the key
    rectangles = boxes[:7]
    assert [round(one.get_x() + one.get_width()) for one in rectangles] == [2, 3, 5, 10, 14, 17, 23]
    assert [one.get_facecolor() for one in rectangles] == [to_rgba(COLORS[sign]) for sign in (0, 1, 1, 1, 1, -1, -1)]
    # No box for the blank at the end of a line.
    assert boxes[-5].get_width() + boxes[-5].get_x() == 55
    # The word "to", and the two parts of "shining".
    underlines = [tuple(line.get_xdata()) for line in axes.lines[1:]]
    assert underlines == [(3, 5), (10, 14), (14, 17)]


def test_picture_of_answers_wraps_long_prompts():
    (axes,) = draw_answers([replace(SEGMENTED, request="Name the tallest mountain of every continent, please.")]).axes
    assert [text.get_text() for text in axes.texts][4:6] == [
        "rejected: Name the tallest mountain of every",
        "continent, please.",
    ]


def test_characters_of_a_png_have_the_width_of_their_boxes(tmp_path):
    save_png([replace(SEGMENTED, tokens=("x" * 50,), segments=((0, 1, 1),))], tmp_path / "answers.png")
    top, bottom = (int(150 * LEADING * y) for y in (KEY + 1.1, KEY + 1.9))
    dark = (imread(tmp_path / "answers.png")[top:bottom, :, :3].max(-1) < 0.5).any(0)
    assert 49.5 < dark.nonzero()[0].max() / (150 * ADVANCE) < 50
