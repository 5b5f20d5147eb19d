"""Names of logged metrics: the chart of each, its readable title, and the few that a run is followed by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

# Titles by chart, in order of importance: the first ones that a run logs are its progress line and its main charts.
MAIN = {
    "loss": "loss",
    "reward": "reward",
    "rewards/accuracies": "accuracy",
    "accuracy": "accuracy",
    "masked_rewards/accuracies": "accuracy, under the mask",
    "reward/accepted": "reward, accepted",
    "kl": "KL",
    "kl/teacher": "KL to the teacher",
    "divergence": "divergence from the teacher",
    "length": "length",
    "kept": "kept tokens",
    "rewards/margins": "margin",
    "scores/margin": "margin",
    "mask_agreement": "mask agreement",
    "rewards": "reward",
    "scores": "score",
    "entropy": "entropy",
    "extrapolation": "extrapolation",
}
REST = {
    "masked_rewards/margins": "margin, under the mask",
    "masked_rewards": "reward, under the mask",
    "reward/samples": "reward, all samples",
    "kl/dpo": "KL to the DPO model",
    "rewards/teacher": "reward, teacher",
    "ended": "responses that end",
    "token_reward": "token reward",
    "nonfinite_rewards": "responses without a finite reward",
    "loss/policy": "policy loss",
    "loss/value": "value loss",
    "clipped": "clipped tokens",
    "approximate_kl": "KL of the updates",
    "nll_loss": "negative log-likelihood, chosen",
    "logps": "log-probability",
    "teacher_logps": "log-probability, teacher",
    "teacher_entropy": "entropy, teacher",
    "teacher_mass": "probability of the teacher's top tokens",
    "token_weight": "token weight",
    "segments": "segments",
    "segment_reward": "segment reward",
    "response_tokens": "response tokens",
    "empty_pairs": "pairs with an empty mask",
    "skipped_steps": "skipped steps",
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
}
TITLES = MAIN | REST
MAIN_CHARTS, LINE_METRICS = 6, 4

# Counters, timings and bounds of intervals, which have no curve.
OMITTED = re.compile(
    r"(eval_)?(epoch|step|total_flos|num_input_tokens_seen|pairs|tokens|train_loss)|.*(_runtime|_per_second|_low|_high)"
)
# Metrics that are 1 for every method without a mask.
ONLY_IF_VARYING = ("kept",)


class MetricName(NamedTuple):
    """Parts of a metric's key in the logs.

    Example:
        >>> metric_name("eval_rewards/chosen")
        MetricName(chart='rewards', part='chosen', held_out=True)
        >>> metric_name("rollout/kl"), metric_name("kept_rejected").part
        (MetricName(chart='kl', part='', held_out=False), 'rejected')
    """

    chart: str
    part: str  # "chosen", "rejected" or ""
    held_out: bool

    @property
    def title(self) -> str:
        """Readable name, with the part."""
        title = TITLES.get(self.chart, self.chart.replace("_", " ").replace("/", ", "))
        return f"{title}, {self.part}" if self.part else title


def metric_name(key: str) -> MetricName:
    """Split a key; metrics of rollouts and of held-out rows share a chart with those of training rows."""
    held_out = key.startswith("eval_")
    chart = key.removeprefix("eval_").removeprefix("rollout/")
    found = re.fullmatch(r"(.+)[/_](chosen|rejected)", chart)
    return MetricName(found[1], found[2], held_out) if found else MetricName(chart, "", held_out)


def logged_metrics(logs: Mapping[str, Any]) -> dict[str, float]:
    """Metrics of one log entry by key, without counters and timings.

    The held-out "loss" of a method on sampled responses is minus the reward; it is left out.
    """
    return {
        key: float(value)
        for key, value in logs.items()
        if isinstance(value, (int, float))
        and not OMITTED.fullmatch(key)
        and not (key == "eval_loss" and "eval_reward" in logs)
    }


def main_charts(charts: Iterable[str], varying: Iterable[str]) -> list[str]:
    """Charts that a reader looks at first, at most `MAIN_CHARTS`: the loss, then those of `MAIN` in its order.

    Args:
        charts: all charts of a run.
        varying: those whose values differ.

    Example:
        >>> main_charts(["grad_norm", "kl", "kept", "loss"], varying=["loss", "kl"])
        ['loss', 'kl']
    """
    present, changing = set(charts), set(varying)
    shown = [name for name in MAIN if name in present and (name not in ONLY_IF_VARYING or name in changing)]
    return shown[:MAIN_CHARTS]


def readable_metrics(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Titles and values of held-out metrics, the main ones first; bounds of an interval stand next to their metric.

    Example:
        >>> interval = {"eval_accuracy_low": 0.63, "eval_accuracy_high": 0.78, "eval_pairs": 120}
        >>> readable_metrics({"eval_scores/chosen": 1.23456, "eval_accuracy": 0.71, **interval, "eval_runtime": 2.0})
        {'accuracy': '0.71 (95 % interval 0.63 to 0.78, 120 pairs)', 'score, chosen': '1.235'}
    """
    main = list(MAIN)
    keys = list(logged_metrics(metrics))
    keys.sort(key=lambda key: main.index(name) if (name := metric_name(key).chart) in main else len(main))
    found: dict[str, str] = {}
    for key in keys:
        value, low, high = (metrics.get(f"{key}{suffix}") for suffix in ("", "_low", "_high"))
        text = f"{value:.4g}"
        if low is not None and high is not None:
            pairs = f", {metrics['eval_pairs']} pairs" if "eval_pairs" in metrics else ""
            text += f" (95 % interval {low:.2f} to {high:.2f}{pairs})"
        found[metric_name(key).title] = text
    return found
