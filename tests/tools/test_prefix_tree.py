"""Texts packed by their common beginnings."""

import pytest

pytest.importorskip("torch")

import torch

from benchmarks.experiments.pretrained.prefix_tree import pack


def attended(packed, text):
    """Tokens that each token of a text attends to, in the order of their positions."""
    row, places = packed.places[text]
    found = []
    for place in places:
        seen = packed.attends[row, place].nonzero()[:, 0]
        seen = seen[packed.positions[row, seen].argsort()]
        found.append(packed.ids[row, seen].tolist())
    return found


def test_common_beginnings_are_stored_once():
    packed = pack([(1, 2, 3), (1, 2, 4, 5), (7,), (1, 2)])
    assert packed.ids.tolist() == [[1, 2, 3, 4, 5, 7]]
    assert packed.positions.tolist() == [[0, 1, 2, 2, 3, 0]]
    assert packed.places == {
        (1, 2): (0, [0, 1]),
        (1, 2, 3): (0, [0, 1, 2]),
        (1, 2, 4, 5): (0, [0, 1, 3, 4]),
        (7,): (0, [5]),
    }
    assert packed.attends[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]


def test_rows_are_at_most_as_long_as_asked_and_start_anew():
    packed = pack([(1, 2, 3), (1, 2, 4), (1, 2, 5), (6, 7, 8, 9, 10)], longest=4)
    # The third text would be the fifth token of the first row; the last text alone is longer than a row.
    assert packed.ids.tolist() == [[1, 2, 3, 4, 0], [1, 2, 5, 0, 0], [6, 7, 8, 9, 10]]
    assert packed.places[(1, 2, 5)] == (1, [0, 1, 2])
    # Padding attends to itself, so that no softmax is over nothing.
    assert packed.attends[1, 3:].int().tolist() == [[0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]


def test_each_token_attends_to_its_own_text_up_to_itself():
    generator = torch.Generator().manual_seed(0)
    texts = {
        tuple(torch.randint(3, (length,), generator=generator).tolist())
        for length in torch.randint(1, 9, (80,), generator=generator).tolist()
    }
    packed = pack(sorted(texts, reverse=True), longest=20)
    assert set(packed.places) == texts
    assert packed.ids.shape[0] > 1
    for text in texts:
        assert attended(packed, text) == [list(text[: end + 1]) for end in range(len(text))]


def test_equal_texts_are_packed_once():
    assert pack([(4, 5), (4, 5)]).ids.tolist() == [[4, 5]]
