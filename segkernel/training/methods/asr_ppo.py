"""PPO on the segments that earned the response's reward: Adaptive Segment-level Reward (arXiv 2411.00809).

Rewards and values are those of `PPOTrainer`. The policy loss covers only the segments whose sign equals the sign of
the response's reward minus a baseline.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from segkernel.training.methods.ppo import PPOConfig, PPOTrainer
from segkernel.training.rewards.prefix_scores import prompt_scores, token_rewards
from segkernel.training.segmentation.credit import TokenCredit, agrees_with_credit
from segkernel.training.segmentation.lengths import warn_of_short_segments
from segkernel.training.segmentation.options import SampledSegmentOptions, word_or_number
from segkernel.training.segmentation.rows import TokenRows
from segkernel.training.segmentation.smoothing import smooth
from segkernel.training.segmentation.thresholds import Thresholds
from segkernel.training.trainer.batches import Batch


@dataclass
class ASRPPOConfig(SampledSegmentOptions, PPOConfig):
    """Settings of `ASRPPOTrainer`; the thresholds are fitted to the token rewards of every rollout."""

    sequence_baseline: str = field(
        default="mean",
        metadata={
            "help": "Baseline of a response's reward, which decides the response's sign: the `mean` of its rollout, "
            "the reward model's score of its `prompt`, or a number. (The paper leaves it open.)"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.baseline == "prompt":
            raise ValueError(
                "baseline: expected `mean`, `median`, `sequence` or a number, since a rollout has one response per "
                "prompt, got 'prompt'"
            )
        self.sequence_baseline = word_or_number("sequence_baseline", self.sequence_baseline, ("mean", "prompt"))


class ASRPPOTrainer(PPOTrainer):
    """PPO whose policy loss covers the segments that agree with their response's reward.

    Args:
        token_credit: optional ground truth per token; with it `rollout/mask_agreement` is logged, the share of tokens
            whose mask matches it.
    """

    reads_every_prefix = True
    args: ASRPPOConfig

    def __init__(self, *args: Any, token_credit: TokenCredit | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.token_credit = token_credit
        self.warned = False  # of short segments, once in a run

    def policy_mask(self, batch: Batch) -> Tensor:
        mask = batch["response_mask"]
        values = token_rewards(batch["scores"], batch, self.args.token_rewards)
        rewards = smooth(TokenRows.of_padded(values, mask, batch["ended"]), self.args.smoothing)
        thresholds = Thresholds.fit(rewards.scored.gather(), self.args)
        baselines = thresholds.baselines(rewards, prompts=torch.arange(len(mask), device=mask.device))
        against = batch["sequence_rewards"] - self.sequence_baseline(batch)
        # A response as good as its baseline has no sign; a difference of rounding errors must not give it one.
        signs = against.sign() * (against.abs() > self.rounding_error(batch["sequence_rewards"]))
        segments = thresholds.segment(rewards, baselines, signs)
        assert segments.mask is not None  # since signs were given
        self.warned = self.warned or warn_of_short_segments(segments, rewards.rows)
        kept = torch.zeros_like(mask).masked_scatter(mask, segments.mask)
        self.record({"rollout/segments": segments.counts})
        if self.token_credit is not None:
            agrees = agrees_with_credit(kept, self.token_credit(batch), signs)
            self.record({"rollout/mask_agreement": agrees}, mask)
        return kept

    def sequence_baseline(self, batch: Batch) -> Tensor | float:
        """Baseline of the responses' rewards: `[B]`, or one scalar for all."""
        if self.args.sequence_baseline == "mean":
            return self.token_mean(batch["sequence_rewards"], batch["finite"])
        if self.args.sequence_baseline == "prompt":
            return prompt_scores(batch["scores"], batch)
        return float(self.args.sequence_baseline)
