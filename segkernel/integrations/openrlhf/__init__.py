"""OpenRLHF: log-probs, entropies, GAE and returns (`patch("openrlhf")`)."""

from segkernel.integrations.openrlhf.swaps import FRAMEWORK

__all__ = ["FRAMEWORK"]
