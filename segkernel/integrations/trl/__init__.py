"""TRL: the log-probs of its trainers (`patch("trl")`), and loss masks per segment in DPO and KTO."""

from segkernel.integrations.trl.preference import SegmentPreferenceCollator, segment_masks
from segkernel.integrations.trl.swaps import FRAMEWORK

__all__ = ["FRAMEWORK", "SegmentPreferenceCollator", "segment_masks"]
