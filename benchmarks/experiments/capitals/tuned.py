"""Methods of capitals with options that won on its tuning seeds and are not the defaults."""

from __future__ import annotations

from typing import Any

from benchmarks.experiments.capitals.preferences import ASR_DPO
from benchmarks.experiments.capitals.rollouts import ASR_PPO, ASR_RFT, PPO
from benchmarks.experiments.framework.variants import tuned
from benchmarks.experiments.policies.thresholds import between

ROLLOUT_MEAN: dict[str, Any] = {"advantages": "rollout mean"}

WIDE_ASR_DPO = tuned(ASR_DPO, "wide zone", **between(0.2, 0.5), hold=False)
HIGH_ASR_RFT = tuned(ASR_RFT, "high limits", **between(0.45, 0.55))
MEAN_PPO = tuned(PPO, "rollout mean", **ROLLOUT_MEAN)
MEAN_ASR_PPO = tuned(ASR_PPO, "rollout mean", against=MEAN_PPO, **ROLLOUT_MEAN)

TUNED_METHODS = [WIDE_ASR_DPO, HIGH_ASR_RFT, MEAN_PPO, MEAN_ASR_PPO]
