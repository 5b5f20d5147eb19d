"""OpenRLHF: log-probs, entropies, GAE and returns (`patch("openrlhf")`), advantages per turn or segment on request."""

from segkernel.integrations.openrlhf.swaps import FRAMEWORK

__all__ = ["FRAMEWORK"]
