"""Plots of an experiment's methods and candidates, on hand-written results."""

import pytest

pytest.importorskip("matplotlib")

from benchmarks.experiments.framework.plots import methods_plot, question_plot

COLUMNS = [{"label": "right", "measure": "right", "unit": "percent", "digits": 1, "compact": False, "package": ""}]


def test_legend_names_the_series_of_every_method():
    def entry(method, series):
        mean = {"right": {"mean": 0.5, "half_width": 0.1}}
        shared = {"question": "strength", "unit": "", "label": "1", "condition": "all pairs", "baseline": "start"}
        return {**shared, "of": method, "method": method, "series": series, "mean": mean}

    candidates = [entry("plain", "weak"), entry("masked", "weak"), entry("masked", "strong")]
    start = {"method": "start", "condition": "all pairs", "mean": {"right": {"mean": 0.25, "half_width": 0.1}}}
    results = {
        "columns": COLUMNS,
        "conditions": {"all pairs": {}},
        "methods": [start],
        "candidates": candidates,
    }
    (legend,) = question_plot(results, "strength").legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named == ["all pairs, baseline", "all pairs, weak", "all pairs, strong"]


def test_legend_names_only_the_conditions_that_were_measured():
    mean = {"right": {"mean": 0.5, "half_width": 0.1}}
    results = {
        "columns": COLUMNS,
        "conditions": {"all pairs": {}, "adversarial pairs": {}, "few pairs": {}},
        "methods": [
            {"method": "plain", "condition": "all pairs", "mean": mean},
            {"method": "plain", "condition": "few pairs", "mean": mean},
        ],
        "candidates": [],
    }
    figure = methods_plot(results)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["all pairs", "few pairs"]
    colors = [line.get_color() for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert colors == ["#2456a6", "#14805e"]  # those of the conditions in every plot of the experiment
