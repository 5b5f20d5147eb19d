"""Options of segmentation by token rewards."""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from segkernel import _validate
from segkernel.training.mixins import OptionsMixin

TokenRewards = Literal["difference", "prefix", "column"]
SampledTokenRewards = Literal["difference", "prefix"]
ThresholdUnit = Literal["quantile", "std", "noise", "reward"]
# Baselines that are one value for all tokens, and those that differ between responses.
BASELINES, ROW_BASELINES = ("mean", "median"), ("sequence", "prompt")


@dataclass
class SegmentOptions(OptionsMixin):
    """Token rewards and the thresholds that cut them into segments (`segkernel.segment`)."""

    _argument_group_name = "segments"

    token_rewards: TokenRewards = field(
        default="difference",
        metadata={
            "help": "Reward of a token: how much it moves the reward model's score (`difference`), the score of the "
            "response up to it (`prefix`), or a column of the data (`column`)."
        },
    )
    baseline: str | None = field(
        default=None,
        metadata={
            "help": "The neutral token reward: a number, `mean` or `median` of the training tokens' rewards, or the "
            "mean over the response itself (`sequence`) or over all responses to its `prompt`. The default is 0.25 "
            "with quantiles and `mean` with the other units."
        },
    )
    baseline_shift: float = field(
        default=0.0,
        metadata={"help": "Added to the baseline, in --threshold_unit; above 0 fewer tokens reinforce."},
    )
    smoothing: int = field(
        default=1,
        metadata={"help": "Tokens of the centered window that token rewards are averaged over before all else."},
    )
    delta: float | None = field(
        default=None,
        metadata={
            "help": "Half the width of the trigger's neutral zone around the baseline: above it a token reinforces, "
            "below it suppresses. Without --pivot_threshold the default is 0.05 with quantiles and 0.5 with the other "
            "units."
        },
    )
    pivot_threshold: float | None = field(
        default=None,
        metadata={"help": "A token whose reward differs by more than this from the previous token's opens a segment."},
    )
    threshold_unit: ThresholdUnit = field(
        default="quantile",
        metadata={
            "help": "Unit of --delta, --pivot_threshold and --baseline_shift: a `quantile` of the training tokens' "
            "rewards (and of the steps between tokens for --pivot_threshold; --baseline is one as well), their "
            "standard deviation (`std`), that of their `noise`, or the `reward`'s own."
        },
    )
    hold: bool = field(
        default=True,
        metadata={
            "help": "In the neutral zone keep the state (Schmitt trigger); if not, be neutral (plain dead zone)."
        },
    )
    min_segment_length: int = field(
        default=1,
        metadata={
            "help": "Fewest tokens of a segment: a state that lasts shorter is ignored (debounced), and the state "
            "before it goes on."
        },
    )
    keep_neutral: bool = field(default=False, metadata={"help": "Train on neutral segments as well."})
    reduce: Literal["mean", "sum", "last", "max", "min"] = field(
        default="mean",
        metadata={"help": "Without --delta: reduction of a segment's token rewards, for the segment's sign."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.one_of("token_rewards", self.token_rewards, get_args(TokenRewards))
        _validate.one_of("threshold_unit", self.threshold_unit, get_args(ThresholdUnit))
        ranked = self.threshold_unit == "quantile"
        if self.delta is None and self.pivot_threshold is None:
            self.delta = 0.05 if ranked else 0.5
        if self.baseline is None:
            self.baseline = "0.25" if ranked else "mean"
        for name in ("delta", "pivot_threshold"):
            _validate.not_negative(name, getattr(self, name))
        self.baseline = word_or_number("baseline", self.baseline, BASELINES + ROW_BASELINES)
        if not math.isfinite(self.baseline_shift):
            raise ValueError(f"baseline_shift: expected a finite number, got {self.baseline_shift}")
        if ranked:
            self.check_quantiles()
        for name in ("smoothing", "min_segment_length"):
            _validate.integer(name, getattr(self, name), at_least=1)
        if self.min_segment_length > 1 and self.pivot_threshold is not None:
            raise ValueError(
                "min_segment_length: expected 1 with pivot_threshold, since every pivot opens a segment, got "
                f"{self.min_segment_length}"
            )

    def check_quantiles(self) -> None:
        """Check that the thresholds in quantiles are from 0 to 1.

        Raises:
            ValueError: one of them is not.
        """
        baseline = str(self.baseline)
        if baseline in BASELINES + ROW_BASELINES:
            raise ValueError(
                "baseline: expected 0 <= baseline <= 1 with threshold_unit `quantile`, the default (the others are "
                f"`std`, `noise` and `reward`), got {baseline!r}"
            )
        center, delta = float(baseline) + self.baseline_shift, self.delta or 0.0
        if not 0 <= center - delta <= center + delta <= 1:
            raise ValueError(
                "delta: expected baseline + baseline_shift - delta and + delta from 0 to 1 with threshold_unit "
                f"`quantile`, got {center - delta:g} and {center + delta:g}"
            )
        if self.pivot_threshold is not None and self.pivot_threshold > 1:
            raise ValueError(
                "pivot_threshold: expected <= 1 with threshold_unit `quantile`, the default, got "
                f"{self.pivot_threshold:g}"
            )


@dataclass
class SampledSegmentOptions(SegmentOptions):
    """Segment options of sampled responses, which have no column of token rewards."""

    token_rewards: SampledTokenRewards = field(
        default="difference",
        metadata={
            "help": "Reward of a token: how much it moves the reward model's score (`difference`), or the score of the "
            "response up to it (`prefix`)."
        },
    )

    def __post_init__(self) -> None:
        _validate.one_of("token_rewards", self.token_rewards, get_args(SampledTokenRewards))
        super().__post_init__()


@dataclass
class PairSegmentOptions(SegmentOptions):
    """Segment options of preference pairs, whose data may hold token rewards."""

    chosen_rewards_column: str = field(
        default="chosen_token_rewards",
        metadata={"help": "With --token_rewards column: a list of numbers, one per token of the chosen response."},
    )
    rejected_rewards_column: str = field(
        default="rejected_token_rewards", metadata={"help": "The same for the rejected response."}
    )

    @property
    def reward_columns(self) -> dict[str, str]:
        """Options of `read_preferences` that name the columns of token rewards; empty for other sources."""
        if self.token_rewards != "column":
            return {}
        return {"chosen_rewards": self.chosen_rewards_column, "rejected_rewards": self.rejected_rewards_column}


def word_or_number(name: str, value: object, words: tuple[str, ...]) -> str:
    """Check that an option is one of these words or a number, and return it as a string.

    Raises:
        ValueError: it is neither.
    """
    text = str(value)
    try:
        valid = text in words or math.isfinite(float(text))
    except ValueError:
        valid = False
    if not valid:
        expected = ", ".join(f"`{word}`" for word in words)
        raise ValueError(f"{name}: expected {expected} or a number, got {text!r}")
    return text
