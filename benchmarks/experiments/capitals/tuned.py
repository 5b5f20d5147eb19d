"""Methods with options that won on the tuning seeds and are not the defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.experiments.capitals.preferences import ASR_DPO
from benchmarks.experiments.capitals.rollouts import ASR_PPO, ASR_RFT, PPO
from benchmarks.experiments.framework.experiment import Method
from benchmarks.experiments.policies.thresholds import between

ROLLOUT_MEAN: dict[str, Any] = {"advantages": "rollout mean"}


def tuned(method: Method, name: str, *, against: Method | None = None, **options: Any) -> Method:
    """A method with other options under a name of its own; its baseline is that of the method, or `against`."""
    return replace(
        method.with_options(**options),
        name=f"{method.name}, {name}",
        baseline=against or method.baseline,
        decides=False,
    )


WIDE_ASR_DPO = tuned(ASR_DPO, "wide zone", **between(0.2, 0.5), hold=False)
HIGH_ASR_RFT = tuned(ASR_RFT, "high limits", **between(0.45, 0.55))
MEAN_PPO = tuned(PPO, "rollout mean", **ROLLOUT_MEAN)
MEAN_ASR_PPO = tuned(ASR_PPO, "rollout mean", against=MEAN_PPO, **ROLLOUT_MEAN)

TUNED_METHODS = [WIDE_ASR_DPO, HIGH_ASR_RFT, MEAN_PPO, MEAN_ASR_PPO]
