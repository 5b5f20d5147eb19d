"""TRL: the log-probs of its trainers (`patch("trl")`), and credit per segment in DPO, KTO and GRPO."""

from segkernel.integrations.trl.grpo import Credit, SegmentCredit, prefix_rewards
from segkernel.integrations.trl.preference import SegmentPreferenceCollator, segment_masks
from segkernel.integrations.trl.swaps import FRAMEWORK

__all__ = ["FRAMEWORK", "Credit", "SegmentCredit", "SegmentPreferenceCollator", "prefix_rewards", "segment_masks"]
