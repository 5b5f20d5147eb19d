"""Segments by a reference model's entropy, and their rewards (arXiv 2501.02790): `segment-reward` and the PPO on it.

Next to the weights of a segment reward model, the file `segments.json` holds the segmentation of its training responses
and the distribution of its rewards over their positions.
"""

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import segkernel
from segkernel import _validate
from segkernel.training.rewards.reward_model import prefix_scores
from segkernel.training.rounding import rounding_error
from segkernel.training.trainer.batches import Batch
from segkernel.training.trainer.response_logits import logprobs_and_entropy

logger = logging.getLogger(__name__)

FILE = "segments.json"
# Lower bound of the fitted deviation, as a share of the deviation over all rewards: the line fitted to the deviations
# can come near 0, or below it, at positions with few rewards. The published lines stay far above the bound.
LEAST_STD = 0.1


@dataclass(frozen=True)
class Segmenter:
    """Segmentation of a segment reward model's responses, and the location-aware normalizer of its rewards.

    Args:
        entropy_threshold, min_length: the arguments of `segkernel.segment_by_entropy`, the threshold in nats.
        mean, std, min_std: those of `segkernel.location_normalize`, in units of reward.

    Raises:
        ValueError: one of them is out of its range.
    """

    entropy_threshold: float
    min_length: int
    mean: tuple[float, float]
    std: tuple[float, float]
    min_std: float

    def __post_init__(self) -> None:
        check_segmentation(self.entropy_threshold, self.min_length)
        for name in ("mean", "std"):
            _validate.slope_and_intercept(name, getattr(self, name))
        _validate.positive("min_std", self.min_std)

    @classmethod
    def fit(cls, segment_rewards: Tensor, counts: Tensor, *, entropy_threshold: float, min_length: int) -> "Segmenter":
        """Fit the normalizer to the segment rewards `[N, S]`, finite, of many responses with `counts` `[N]` segments.

        A line over the position needs two positions with two rewards each. Without them, as when a high threshold
        leaves one segment per response, the rewards' mean and deviation serve at every position. Rewards that are equal
        up to rounding have no spread to divide by: their mean is subtracted only.
        """
        rewards = segment_rewards[torch.arange(segment_rewards.shape[1]) < counts[:, None]].double()
        overall = float(rewards.std(correction=min(1, len(rewards) - 1)))
        if overall <= float(rounding_error(rewards)):
            logger.warning("%s: all segment rewards are equal; the normalizer subtracts their mean only", FILE)
            equal = (0.0, float(rewards.median()))
            return cls(entropy_threshold, min_length, equal, (0.0, 1.0), min_std=1e-6)
        try:
            mean, std = segkernel.fit_location_normalizer(segment_rewards, counts)
        except ValueError as error:
            logger.warning("%s: one mean and deviation for every position (%s)", FILE, error)
            mean, std = (0.0, float(rewards.mean())), (0.0, overall)
        return cls(entropy_threshold, min_length, mean, std, min_std=max(LEAST_STD * overall, 1e-6))

    def normalize(self, segment_rewards: Tensor, counts: Tensor) -> Tensor:
        """`segkernel.location_normalize` with this normalizer: `[B, S]`."""
        return segkernel.location_normalize(segment_rewards, counts, mean=self.mean, std=self.std, min_std=self.min_std)

    def save(self, directory: str | Path) -> None:
        (Path(directory) / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def load_segmenter(path: str | Path) -> Segmenter:
    """Segmenter saved with the segment reward model in the directory `path`.

    Raises:
        FileNotFoundError: there is no segmenter, so the directory holds no segment reward model.
        ValueError: the file does not hold a segmenter.
    """
    file = Path(path) / FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"reward_model: expected a segment reward model, made with `segkernel train segment-reward`; "
            f"{str(path)!r} holds no {FILE}"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return Segmenter(
            entropy_threshold=float(values["entropy_threshold"]),
            min_length=int(values["min_length"]),
            mean=tuple(map(float, values["mean"])),  # type: ignore[arg-type]  # of two: checked
            std=tuple(map(float, values["std"])),  # type: ignore[arg-type]
            min_std=float(values["min_std"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        missing = "there is no " if isinstance(error, KeyError) else ""
        raise ValueError(f"{file}: cannot be read: {missing}{error}") from error


def check_segmentation(entropy_threshold: float, min_length: int) -> None:
    _validate.minimum("entropy_threshold", entropy_threshold, 0)
    _validate.minimum("min_length", min_length, 1)


def token_entropy(logits: Tensor, batch: Batch) -> Tensor:
    """Entropy of the distribution that each response token was drawn from, in nats: `[rows, T]`, 0 at other tokens.

    `logits` `[N, V]` are the reference model's at the response tokens (`response_logits`) of a batch of
    `ResponseCollator`, or of `PreferenceCollator`, whose sides are rows of their own.

    Raises:
        ValueError: an entropy is not finite.
    """
    _, entropy = logprobs_and_entropy(logits, batch, batch["response_mask"])
    if not entropy.isfinite().all():
        raise ValueError("ref_model: expected finite logits, got NaN or infinity at a response token")
    return entropy


def rewards_at_segment_ends(scores: Tensor, ids: Tensor) -> Tensor:
    """A reward model's `scores` `[rows, T]` at the last token of every segment: `[rows, S]`, 0 past a row's segments.

    Raises:
        ValueError: one of them is not finite.
    """
    rewards = segkernel.segment_reduce(scores, ids, ids.shape[1], reduce="last")
    if not rewards.isfinite().all():
        bad = rewards[~rewards.isfinite()][0].item()
        raise ValueError(f"reward model: expected a finite score at the end of every segment, got {bad}")
    return rewards


def segment_rewards(model: nn.Module, batch: Batch) -> Tensor:
    """Rewards of both responses' segments, `[B, 2, S]`; 0 past their number."""
    ids = batch["segment_ids"]
    return rewards_at_segment_ends(prefix_scores(model, batch), ids.flatten(0, 1)).view_as(ids)
