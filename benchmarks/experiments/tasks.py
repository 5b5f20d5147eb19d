"""Tasks of the experiment: one step with one seed, on pairs and rewards of given sources."""

from __future__ import annotations

from dataclasses import dataclass

# Sources of a policy's preference pairs and of its rewards. Conditions that agree in all sources a method uses share
# one run of it.
ALL_PAIRS = "all pairs"
CONDITIONS = {
    ALL_PAIRS: {"pairs": "all", "rewards": "all"},
    "adversarial pairs": {"pairs": "adversarial", "rewards": "all"},
    "adversarial pairs and rewards": {"pairs": "adversarial", "rewards": "adversarial"},
}


@dataclass(frozen=True)
class Task:
    """A step with its seed and sources; a source is "" where the step does not use it."""

    seed: int
    step: str
    pairs: str = ""
    rewards: str = ""
    learning_rate: float | None = None

    @property
    def name(self) -> str:
        """
        Example:
            >>> Task(1, "asr-dpo", pairs="all", rewards="all", learning_rate=3e-4).name
            'asr-dpo pairs=all rewards=all lr=0.0003'
        """
        options = {"pairs": self.pairs, "rewards": self.rewards, "lr": self.learning_rate}
        return " ".join([self.step, *(f"{name}={value}" for name, value in options.items() if value)])
