"""LLaMA-Factory: the log-probs of its DPO and KTO trainers (`patch("llamafactory")`)."""

from segkernel.integrations.llamafactory.swaps import FRAMEWORK

__all__ = ["FRAMEWORK"]
