"""verl: log-probs, entropies, the fused LM head and GAE (`patch("verl")`), advantages and a loss per segment."""

from segkernel.integrations.verl.swaps import FRAMEWORK

__all__ = ["FRAMEWORK"]
