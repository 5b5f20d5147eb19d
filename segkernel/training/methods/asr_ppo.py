"""PPO on the segments that earned the response's reward: Adaptive Segment-level Reward (arXiv 2411.00809).

Rewards and values are those of `PPOTrainer`; the policy loss reads the tokens of those segments alone whose sign
agrees with the sign of the response's reward against a baseline.
"""

from dataclasses import dataclass, field
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor

from segkernel.training.methods.ppo import PPOConfig, PPOTrainer
from segkernel.training.rewards.prefix_scores import prompt_scores, token_rewards
from segkernel.training.segmentation.segmenting import (
    SegmentOptions,
    Thresholds,
    TokenCredit,
    agrees_with_credit,
    word_or_number,
)
from segkernel.training.trainer.batches import Batch


@dataclass
class ASRPPOConfig(SegmentOptions, PPOConfig):
    """Settings of `ASRPPOTrainer`. The thresholds are placed anew on the token rewards of every rollout."""

    sequence_baseline: str = field(
        default="mean",
        metadata={
            "help": "What a response's reward is held against for its sign, which the paper leaves open: the `mean` "
            "of its rollout, the reward model's score of its `prompt`, or a number."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_column()
        self.sequence_baseline = word_or_number("sequence_baseline", self.sequence_baseline, ("mean", "prompt"))


class ASRPPOTrainer(PPOTrainer):
    """PPO whose policy loss sees the segments that agree with their response's reward.

    Where the truth is known, `token_credit` gives it per token, and `rollout/mask_agreement` is logged: the share of
    tokens that the mask treats as it says.
    """

    args: ASRPPOConfig

    def __init__(self, *args: Any, token_credit: TokenCredit | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.token_credit = token_credit

    def policy_mask(self, batch: Batch) -> Tensor:
        mask = batch["response_mask"]
        rewards = token_rewards(batch["scores"], batch, self.args.token_rewards)
        thresholds = Thresholds.fit(gather_object(rewards[mask].tolist()), self.args)
        signs = (batch["sequence_rewards"] - self.sequence_baseline(batch)).sign()
        segments = thresholds.segment(rewards, mask, signs)
        assert segments.mask is not None  # since signs were given
        self.record({"rollout/segments": segments.counts})
        if self.token_credit is not None:
            agrees = agrees_with_credit(segments.mask, self.token_credit(batch), signs)
            self.record({"rollout/mask_agreement": self.token_mean(agrees.float(), mask)})
        return segments.mask

    def sequence_baseline(self, batch: Batch) -> Tensor | float:
        """What the rewards of responses are held against, `[B]` or one number."""
        if self.args.sequence_baseline == "mean":
            return self.token_mean(batch["sequence_rewards"], batch["finite"])
        if self.args.sequence_baseline == "prompt":
            return prompt_scores(batch["scores"], batch)
        return float(self.args.sequence_baseline)
