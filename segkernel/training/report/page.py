"""Self-contained HTML page of summary, facts of the run, curves and responses."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from segkernel.training.metrics import main_charts, metric_name
from segkernel.training.report.charts import Curve, collect_curves, curve_chart, reward_trace
from segkernel.training.report.example import Example
from segkernel.training.report.sample import Sample
from segkernel.training.report.text import visible_text

SIGNS = {1: "+", -1: "\N{MINUS SIGN}", 0: "0"}

LogHistory = Sequence[Mapping[str, Any]]


def write_report(
    output_dir: str | Path,
    *,
    title: str,
    log_history: LogHistory | Mapping[str, LogHistory] = (),
    examples: Iterable[Example | Sample] = (),
    summary: Mapping[str, Any] | Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, str] | None = None,
    command: str = "",
    description: str = "",
    images: Iterable[tuple[str, str | Path]] = (),
    filename: str = "report.html",
) -> Path:
    """Write a self-contained HTML report: a summary table, the curves of the run or runs, responses, and what ran.

    The main curves are shown (`segkernel.training.metrics.main_charts`); the others are folded.

    Args:
        output_dir: the folder to write to, created if missing.
        title: the page's heading.
        log_history: `trainer.state.log_history` of a `transformers.Trainer`, or several by run name.
        examples: responses to show; consecutive ones with the same prompt share a card.
        summary: a mapping of names to values, or table rows as mappings (columns of the first row).
        facts: what ran: model, data, options, versions, by name.
        command: the shell command that repeats the run.
        description: text under the heading; a blank line separates paragraphs.
        images: titles and PNG files, embedded into the page.
        filename: name of the file in `output_dir`.

    Returns:
        The path of the file.

    Example:
        >>> import tempfile
        >>> example = Example("2+2=", "chosen", ["4", ";"], [1.0, 0.9], [0, 0], [1], [True, True])
        >>> folder = tempfile.mkdtemp()
        >>> write_report(folder, title="a run", examples=[example], summary={"accuracy": 0.5}).name
        'report.html'
    """
    runs = log_history if isinstance(log_history, Mapping) else {"": log_history}
    cards = [(prompt, list(group)) for prompt, group in groupby(examples, key=lambda example: example.prompt)]
    main, folded = _charts(runs)
    page = _environment().get_template("report.html.j2")
    html = page.render(
        title=title,
        paragraphs=[text.strip() for text in description.split("\n\n") if text.strip()],
        table=_table(summary),
        charts=main,
        folded_charts=folded,
        images=[(name, b64encode(Path(file).read_bytes()).decode()) for name, file in images],
        cards=cards,
        kinds={type(example).__name__ for _, group in cards for example in group},
        facts=facts or {},
        command=command,
        trace=lambda example: Markup(reward_trace(example)),
    )
    path = Path(output_dir) / filename
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    return path


def _charts(runs: Mapping[str, LogHistory]) -> tuple[list[tuple[str, str, Markup]], list[tuple[str, str, Markup]]]:
    """Title, key and SVG of the charts, the main ones and the others; all are main if none of them has a known name."""
    charts = collect_curves(runs)
    main = main_charts(charts, [name for name, curves in charts.items() if _varies(curves)]) or list(charts)
    drawn = {
        name: (metric_name(name).title, name, Markup(curve_chart(curves, list(runs))))
        for name, curves in charts.items()
    }
    return [drawn[name] for name in main], [chart for name, chart in drawn.items() if name not in main]


def _varies(curves: Sequence[Curve]) -> bool:
    return any(value != curve.values[0] for curve in curves for value in curve.values)


def _table(summary: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The summary as `columns` (empty for a mapping) and `rows` of cells."""
    if isinstance(summary, Mapping):
        return {"columns": [], "rows": [list(pair) for pair in summary.items()]}
    columns = list(summary[0]) if summary else []
    return {"columns": columns, "rows": [[row.get(column) for column in columns] for row in summary]}


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("segkernel.training", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"value": format_value, "sign": SIGNS.__getitem__, "count": count}
    environment.globals["token_columns"] = token_columns
    return environment


def count(number: int, noun: str) -> str:
    """Number and noun.

    Example:
        >>> count(1, "token"), count(2, "token")
        ('1 token', '2 tokens')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def format_value(value: Any) -> str:
    """Floats with four significant digits, everything else as text.

    Example:
        >>> format_value(0.123456), format_value(1200), format_value("a"), format_value(None)
        ('0.1235', '1200', 'a', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def token_columns(example: Example) -> list[dict[str, Any]]:
    """Template values per token: text, CSS classes, tooltip, and the bar under the token in percent.

    The bar spans from the baseline (default 0) to the reward; all tokens of a response share one scale.
    """
    base = example.baseline or 0.0
    shown = [base, *(r for r in (*example.token_rewards, example.low, example.high) if r is not None)]
    finite = [value for value in shown if math.isfinite(value)] or [0.0]
    bottom, top = min(finite), max(finite)
    height = (top - bottom) or 1.0

    def level(value: float) -> float:
        return round(100 * (min(max(value, bottom), top) - bottom) / height, 1)

    columns = []
    for t, (token, reward, segment, kept) in enumerate(
        zip(example.tokens, example.token_rewards, example.ids, example.kept, strict=True)
    ):
        sign = example.signs[segment]
        starts = t == 0 or segment != example.ids[t - 1]
        known = not math.isnan(reward)
        edges = sorted((level(base), level(reward))) if known else (0.0, 0.0)
        columns.append(
            {
                "text": visible_text(token),
                "breaks_before": token.startswith("\n"),
                "breaks_after": "\n" in token and not token.startswith("\n"),
                "classes": " ".join(
                    [
                        "t",
                        {1: "plus", -1: "minus", 0: "neutral"}[sign],
                        "kept" if kept else "masked",
                        *(["start"] if starts else []),
                    ]
                ),
                "sign": sign,
                "starts": starts,
                "title": f"token {t}, segment {segment} ({SIGNS[sign]}), "
                f"reward {reward:.3g}, {'trained on' if kept else 'masked out'}",
                "bottom": edges[0],
                "height": round(edges[1] - edges[0], 1),
                "known": known,
                "base": level(base),
                "low": None if example.low is None else level(example.low),
                "high": None if example.high is None else level(example.high),
            }
        )
    return columns
