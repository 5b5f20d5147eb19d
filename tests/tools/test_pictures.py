"""Pictures of the documentation: how they read the stored results."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("matplotlib")
FOLDER = Path(__file__).parents[2] / "docs" / "pictures"


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield import_module("scaling")
    for name in ("scaling", "style"):
        del sys.modules[name]


def row(work: str, seconds: float | None, implementation: str = "segkernel", group: str = "scaling") -> dict[str, Any]:
    found = {"group": group, "work": work, "implementation": implementation}
    return found if seconds is None else {**found, "seconds": seconds}


def test_points_of_scaling_have_the_sizes_in_the_name_of_the_work(scaling: ModuleType) -> None:
    rows = [
        row("by share: token_logprobs + entropy, bf16 [1024, 151936]", 0.5),
        row("by share: token_logprobs + entropy, bf16 [1024, 151936], 1 of 32 kept", 0.25, "TRL"),
        row("by vocabulary: token_logprobs + entropy, bf16 [1024, 9496]", 2.0),
        row("by tokens: token_logprobs + entropy, bf16 [64, 151936]", None),
        row("copy", 1.0, group="bandwidth"),
    ]
    assert scaling.points_of(rows) == [
        ("by share", "segkernel", 1024, 151936, 1, 0.5),
        ("by share", "TRL", 1024, 151936, 32, 0.25),
        ("by vocabulary", "segkernel", 1024, 9496, 1, 2.0),
    ]
    with pytest.raises(ValueError, match="expected one of by share, by tokens, by vocabulary with its sizes, got"):
        scaling.points_of([row("by rows: token_logprobs [3, 4]", 1.0)])


def test_lines_of_scaling_are_milliseconds_over_the_share_kept(scaling: ModuleType) -> None:
    axes = scaling.plt.figure().subplots()
    points = [scaling.Point("by share", "segkernel", 8, 16, divisor, 0.5 / divisor) for divisor in (1, 2, 4)]
    scaling.draw_panel(axes, scaling.PANELS["by share"], points)
    (line,) = axes.get_lines()
    assert line.get_xydata().tolist() == [[0.25, 125.0], [0.5, 250.0], [1.0, 500.0]]
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_title("left")) == ("log", "log", "T = 8, V = 16")
    scaling.plt.close("all")


def test_scaling_names_the_command_when_nothing_is_measured(
    scaling: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results = tmp_path / "results.json"
    results.write_text('{"rows": []}')
    monkeypatch.setattr(scaling, "RESULTS", results)
    monkeypatch.setattr(scaling, "ROOT", tmp_path)
    message = (
        r"results\.json: expected rows of the group scaling, got none \(`python -m benchmarks\.report --only scaling`"
    )
    with pytest.raises(SystemExit, match=message):
        scaling.draw(tmp_path)
