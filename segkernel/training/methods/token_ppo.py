"""PPO on token rewards: `segment-ppo` with every token for a segment, an ablation of arXiv 2501.02790.

Its reward model is one of `segkernel train --method segment-reward --entropy_threshold 0`, so that every token's score
was trained to be a reward.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from segkernel.training.cli.launch import build_from_prompts
from segkernel.training.methods.segment_ppo import SegmentPPOConfig, SegmentPPOTrainer, segmenter_option


@dataclass
class TokenPPOConfig(SegmentPPOConfig):
    """Settings of `SegmentPPOTrainer`, as `token-ppo` has them."""

    output_dir: str = field(default="runs/token-ppo", metadata={"help": "Where checkpoints, models and report go."})
    entropy_threshold: float | None = field(
        default=0.0, metadata={"help": "0: every token that the reference model was not certain of opens a segment."}
    )


def build(argv: Sequence[str]) -> SegmentPPOTrainer:
    """The trainer of `segkernel train --method token-ppo`."""
    return build_from_prompts("token-ppo", argv, TokenPPOConfig, SegmentPPOTrainer, segmenter_option)
