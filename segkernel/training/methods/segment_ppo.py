"""PPO on segment rewards (Segmenting Text and Learning Their Rewards, arXiv 2501.02790).

The reference model's entropy cuts every response as it did for the segment reward model, whose score is read at the
last token of each segment. A location-aware normalizer subtracts the mean reward at that position of a response and
divides by the standard deviation there; each segment's reward is then divided evenly among its tokens. Two ablations
are options: `token-ppo` has one segment per token; `--entropy_threshold inf --interpolation last` is bandit PPO, with
the normalized reward of the response at its last token.

Without a segment reward model (`--check_calculations`, or another scorer of prefixes) a segment's reward is the change
of the score over it, not normalized.
"""

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

import segkernel
from segkernel.training.methods.ppo import PPOConfig, PPOTrainer
from segkernel.training.rewards.prefix_scores import token_rewards
from segkernel.training.segmentation.entropy import (
    Segmenter,
    check_segmentation,
    rewards_at_segment_ends,
    token_entropy,
)
from segkernel.training.trainer.batches import Batch
from segkernel.training.trainer.response_logits import logprobs_under, response_logits

logger = logging.getLogger(__name__)


@dataclass
class SegmentPPOConfig(PPOConfig):
    """Settings of `SegmentPPOTrainer`."""

    entropy_threshold: float | None = field(
        default=None,
        metadata={
            "help": "Entropy of the reference model's distribution, in nats, above which a token opens a segment; 0: "
            "every token, inf: only the first. Default: that of the segment reward model."
        },
    )
    min_length: int | None = field(
        default=None,
        metadata={"help": "Least number of tokens per segment. Default: that of the segment reward model, or 1."},
    )
    normalize: bool = field(
        default=True,
        metadata={"help": "Normalize segment rewards by the position of the segment in the response."},
    )
    interpolation: Literal["split", "repeat", "last"] = field(
        default="split",
        metadata={
            "help": "Token rewards of a segment: equal shares of its reward (`split`), the whole of it for each token "
            "(`repeat`), or the whole of it for the last token (`last`)."
        },
    )
    reward_clip: float = field(default=10.0, metadata={"help": "Bound on a token's reward, before the KL penalty."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_segmentation(self.entropy_threshold or 0.0, 1 if self.min_length is None else self.min_length)
        if not self.reward_clip > 0:  # infinity turns it off
            raise ValueError(f"reward_clip: expected a number > 0, got {self.reward_clip}")


class SegmentPPOTrainer(PPOTrainer):
    """PPO on the rewards of segments.

    Args:
        segmenter: segmenter of a segment reward model (`load_segmenter`); without one `reward_model` is read as
            `PPOTrainer` does, and `args.entropy_threshold` is required.
    """

    reads_every_prefix = True
    args: SegmentPPOConfig

    def __init__(
        self, model: Any, args: SegmentPPOConfig, *rest: Any, segmenter: Segmenter | None = None, **kwargs: Any
    ):
        threshold = args.entropy_threshold
        if threshold is None:
            if segmenter is None:
                raise ValueError("entropy_threshold: expected a number without a segment reward model, got none")
            threshold = segmenter.entropy_threshold
        elif segmenter is not None and threshold != segmenter.entropy_threshold:
            logger.warning(
                "entropy_threshold: the reward model was trained, and its normalizer fitted, at %g, not at %g",
                segmenter.entropy_threshold,
                threshold,
            )
        self.segmenter = segmenter
        self.entropy_threshold = threshold
        self.min_length = args.min_length or (1 if segmenter is None else segmenter.min_length)
        super().__init__(model, args, *rest, **kwargs)

    def read_reference(self, batch: Batch) -> Batch:
        logits = response_logits(self.reference, batch)
        logprobs = logprobs_under(logits, batch, batch["response_mask"], temperature=self.args.temperature)
        # The entropy is taken at temperature 1, as for the segments of the reward model's training.
        return {"ref_logprobs": logprobs, "ref_entropy": token_entropy(logits, batch)}

    def evaluate_responses(self, prompts: list[list[int]], responses: list[list[int]]) -> Batch:
        """Batch of `PPOTrainer` with `segment_ids` `[B, T]`, `segments` `[B]` and `segment_rewards` `[B, S]`."""
        batch = super().evaluate_responses(prompts, responses)
        mask = batch["response_mask"]
        ids, counts = segkernel.segment_by_entropy(
            batch["ref_entropy"], mask, threshold=self.entropy_threshold, min_length=self.min_length
        )
        if self.segmenter is None:
            moved = token_rewards(batch["scores"], batch, "difference")
            rewards = segkernel.segment_reduce(moved, ids, ids.shape[1], reduce="sum")
        else:
            rewards = rewards_at_segment_ends(batch["scores"], ids)
            batch["sequence_rewards"] = rewards.sum(1) / counts.clamp(min=1)
            if self.args.normalize:
                rewards = self.segmenter.normalize(rewards, counts)
        return {**batch, "segment_ids": ids, "segments": counts, "segment_rewards": rewards}

    def token_rewards(self, batch: Batch) -> Tensor:
        rewards = segkernel.segment_broadcast(
            batch["segment_rewards"], batch["segment_ids"], how=self.args.interpolation
        )
        return rewards.clamp(-self.args.reward_clip, self.args.reward_clip)

    def describe(self, batch: Batch) -> Batch:
        counts = batch["segments"]
        return {
            **super().describe(batch),
            "segments": counts.float(),
            "segment_reward": batch["segment_rewards"].sum(1) / counts.clamp(min=1),
        }
