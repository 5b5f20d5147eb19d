import pytest


@pytest.fixture(autouse=True)
def placeholder_charts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without charts, which take most of the time of a short training, except in tests marked `charts`."""
    if request.node.get_closest_marker("charts") is None:
        monkeypatch.setattr("segkernel.training.report.page.curve_chart", lambda curves, runs: "<svg></svg>")
