"""Plots of an experiment's candidates, on hand-written results."""

import pytest

pytest.importorskip("matplotlib")

from benchmarks.experiments.framework.plots import question_plot


def test_legend_names_the_series_of_every_method():
    def entry(method, series):
        mean = {"right": {"mean": 0.5, "half_width": 0.1}}
        shared = {"question": "strength", "unit": "", "label": "1", "condition": "all pairs", "baseline": "start"}
        return {**shared, "of": method, "method": method, "series": series, "mean": mean}

    candidates = [entry("plain", "weak"), entry("masked", "weak"), entry("masked", "strong")]
    start = {"method": "start", "condition": "all pairs", "mean": {"right": {"mean": 0.25, "half_width": 0.1}}}
    columns = [{"label": "right", "measure": "right", "unit": "percent", "digits": 1, "compact": False, "package": ""}]
    results = {
        "columns": columns,
        "conditions": {"all pairs": {}},
        "methods": [start],
        "candidates": candidates,
    }
    (legend,) = question_plot(results, "strength").legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named == ["all pairs, baseline", "all pairs, weak", "all pairs, strong"]
