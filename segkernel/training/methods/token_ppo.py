"""PPO on token rewards: `segment-ppo` with one segment per token, an ablation of arXiv 2501.02790.

Its reward model is made with `segkernel train segment-reward --entropy_threshold 0`, so that every token's score was
trained to be a reward.
"""

from dataclasses import dataclass, field

from segkernel.training.methods.segment_ppo import SegmentPPOConfig, SegmentPPOTrainer


@dataclass
class TokenPPOConfig(SegmentPPOConfig):
    """Settings of `TokenPPOTrainer`: those of `SegmentPPOTrainer` with an entropy threshold of 0."""

    entropy_threshold: float | None = field(
        default=0.0,
        metadata={
            "help": "Entropy, in nats, above which a token opens a segment. 0: every token that the reference model "
            "was not certain of."
        },
    )


class TokenPPOTrainer(SegmentPPOTrainer):
    """PPO on token rewards: `SegmentPPOTrainer` under `TokenPPOConfig`."""

    args: TokenPPOConfig
