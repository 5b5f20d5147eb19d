"""Token rewards and the segments they make: from a reward model's scores to a loss mask."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

import segkernel
from segkernel import _validate
from segkernel.training.data.collators import PreferenceCollator, columns_of_sides
from segkernel.training.data.encoding import token_texts
from segkernel.training.data.readers import SIDES
from segkernel.training.mixins import OptionsMixin
from segkernel.training.report import Example, example_from_segments
from segkernel.training.rewards.prefix_scores import PrefixScorer, token_rewards
from segkernel.training.rewards.reward_model import prefix_scorer
from segkernel.training.trainer.base import SegkernelConfig
from segkernel.training.trainer.batches import Batch, Rows, map_batches
from segkernel.types import Segments

SEQUENCE_SIGNS = (1, -1)  # of SIDES: chosen, rejected

# Where the truth is known: +1, 0, -1 for every token of a batch, `[B, T]`; the sides of a pair are rows of their own.
TokenCredit = Callable[[Batch], Tensor]

TokenRewards = Literal["difference", "prefix", "column"]
ThresholdUnit = Literal["std", "reward"]


@dataclass
class SegmentOptions(OptionsMixin):
    """Token rewards, and the thresholds that cut them into segments (`segkernel.segment`)."""

    _argument_group_name = "segments"

    token_rewards: TokenRewards = field(
        default="difference",
        metadata={
            "help": "What rewards a token: how much it moves the reward model's score (`difference`), the score of the "
            "response up to it (`prefix`), or a column of the data (`column`)."
        },
    )
    baseline: str = field(
        default="mean",
        metadata={"help": "The neutral token reward: `mean` or `median` of the training tokens' rewards, or a number."},
    )
    delta: float | None = field(
        default=None,
        metadata={
            "help": "Half the width of the trigger's neutral zone around the baseline: above it a token reinforces, "
            "below it suppresses. Without --pivot_threshold the default is 0.5."
        },
    )
    pivot_threshold: float | None = field(
        default=None,
        metadata={"help": "A token whose reward differs by more than this from the previous token's opens a segment."},
    )
    threshold_unit: ThresholdUnit = field(
        default="std",
        metadata={
            "help": "Unit of --delta and --pivot_threshold: the standard deviation of the training tokens' rewards "
            "(reward models differ in scale), or the reward's own."
        },
    )
    hold: bool = field(
        default=True,
        metadata={
            "help": "In the neutral zone keep the state (Schmitt trigger); if not, be neutral (plain dead zone)."
        },
    )
    keep_neutral: bool = field(default=False, metadata={"help": "Train on neutral segments as well."})
    reduce: Literal["mean", "sum", "last", "max", "min"] = field(
        default="mean",
        metadata={"help": "Without --delta: which reduction of a segment's token rewards its sign is taken from."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _validate.one_of("token_rewards", self.token_rewards, get_args(TokenRewards))
        _validate.one_of("threshold_unit", self.threshold_unit, get_args(ThresholdUnit))
        if self.delta is None and self.pivot_threshold is None:
            self.delta = 0.5
        for name in ("delta", "pivot_threshold"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"{name}: expected a number of at least 0, got {value}")
        self.baseline = word_or_number("baseline", self.baseline, ("mean", "median"))

    def refuse_column(self) -> None:
        """For methods on sampled responses.

        Raises:
            ValueError: the token rewards are to be read from the data.
        """
        if self.token_rewards == "column":
            raise ValueError(
                "token_rewards: expected `difference` or `prefix`, since sampled responses have no column, got `column`"
            )


@dataclass
class PairSegmentOptions(SegmentOptions):
    """The same for preference pairs, whose data may hold token rewards."""

    chosen_rewards_column: str = field(
        default="chosen_token_rewards",
        metadata={"help": "With --token_rewards column: a list of numbers, one per token of the chosen response."},
    )
    rejected_rewards_column: str = field(
        default="rejected_token_rewards", metadata={"help": "The same for the rejected response."}
    )

    @property
    def reward_columns(self) -> dict[str, str]:
        """Where token rewards come from the data: the options of `read_preferences`."""
        if self.token_rewards != "column":
            return {}
        return {"chosen_rewards": self.chosen_rewards_column, "rejected_rewards": self.rejected_rewards_column}


def word_or_number(name: str, value: object, words: tuple[str, ...]) -> str:
    """An option that is one of these words or a number, as a string.

    Raises:
        ValueError: it is neither.
    """
    text = str(value)
    try:
        if text not in words:
            float(text)
    except ValueError:
        expected = ", ".join(f"`{word}`" for word in words)
        raise ValueError(f"{name}: expected {expected} or a number, got {text!r}") from None
    return text


@dataclass(frozen=True)
class Thresholds:
    """`SegmentOptions` in numbers: the arguments of `segkernel.segment`, in the token rewards' own unit."""

    baseline: float
    delta: float | None
    pivot_threshold: float | None
    hold: bool
    keep_neutral: bool
    reduce: str

    @classmethod
    def of_pairs(cls, rows: Rows, options: SegmentOptions) -> "Thresholds":
        """Place `options` on the scale of the token rewards of `rows` (the training pairs)."""
        return cls.fit((reward for row in rows for side in SIDES for reward in row[f"{side}_token_rewards"]), options)

    @classmethod
    def fit(cls, token_rewards: Iterable[float], options: SegmentOptions) -> "Thresholds":
        """Place `options` on the scale of these token rewards."""
        rewards = torch.tensor(list(token_rewards), dtype=torch.float64)
        unit = float(rewards.std()) if options.threshold_unit == "std" and len(rewards) > 1 else 1.0
        if options.baseline == "mean":
            baseline = float(rewards.mean())
        elif options.baseline == "median":
            baseline = float(rewards.median())
        else:
            baseline = float(options.baseline)
        return cls(
            baseline=baseline,
            delta=None if options.delta is None else options.delta * unit,
            pivot_threshold=None if options.pivot_threshold is None else options.pivot_threshold * unit,
            hold=options.hold,
            keep_neutral=options.keep_neutral,
            reduce=options.reduce,
        )

    def segment(self, token_rewards: Tensor, mask: Tensor | None, sequence_sign: Tensor) -> Segments:
        return segkernel.segment(
            token_rewards,
            mask,
            pivot_threshold=self.pivot_threshold,
            baseline=self.baseline,
            delta=self.delta,
            hold=self.hold,
            reduce=self.reduce,
            sequence_sign=sequence_sign,
            keep_neutral=self.keep_neutral,
        )


def with_token_rewards(
    rows: Rows,
    reward_model: nn.Module | PrefixScorer,
    kind: str,
    collator: PreferenceCollator,
    args: SegkernelConfig,
) -> Rows:
    """Add `chosen_token_rewards` and `rejected_token_rewards` to encoded rows, by what scores their prefixes."""
    scorer = prefix_scorer(reward_model, args.device)

    def columns(batch: Batch) -> Rows:
        rewards = token_rewards(scorer(batch), batch, kind)
        if not rewards[batch["response_mask"].flatten(0, 1)].isfinite().all():
            raise ValueError("reward_model: expected finite scores, got NaN or infinity for a response of the data")
        return columns_of_sides("token_rewards", rewards, batch["response_mask"])

    return map_batches(columns, rows, collator, args, "token rewards")


def agrees_with_credit(kept: Tensor, credit: Tensor, signs: Tensor) -> Tensor:
    """Where tokens are kept just when their true credit has their row's sign, `[B, T]` bool."""
    return kept == (credit == signs[:, None])


def mask_agreement(kept: Tensor, credit: Tensor, signs: Tensor, mask: Tensor) -> Tensor:
    """Share of each row's valid tokens, `[B]`, where what is kept agrees with the true credit.

    Example:
        >>> kept, credit = torch.tensor([[True, True, False]]), torch.tensor([[1, -1, -1]])
        >>> mask_agreement(kept, credit, torch.tensor([1]), torch.tensor([[True, True, True]]))
        tensor([0.6667])
    """
    agrees = agrees_with_credit(kept, credit, signs) & mask
    return agrees.sum(1) / mask.sum(1).clamp(min=1)


def with_masks(
    rows: Rows,
    thresholds: Thresholds,
    collator: PreferenceCollator,
    args: SegkernelConfig,
    token_credit: TokenCredit | None = None,
) -> Rows:
    """Add `chosen_mask`, `rejected_mask` (which response tokens to train on) and `segments` (how many) to rows; and,
    where the tokens' true credit is known, `mask_agreement`."""

    def columns(batch: Batch) -> Rows:
        rewards, mask = batch["token_rewards"].flatten(0, 1), batch["response_mask"].flatten(0, 1)
        signs = torch.tensor(SEQUENCE_SIGNS, device=mask.device).repeat(len(mask) // 2)
        segments = thresholds.segment(rewards, mask, signs)
        assert segments.mask is not None  # since signs were given
        masks = columns_of_sides("mask", segments.mask, batch["response_mask"])
        counts = segments.counts.view(-1, 2).tolist()
        found: Rows = [{**row, "segments": count} for row, count in zip(masks, counts, strict=True)]
        if token_credit is None:
            return found
        agreement = mask_agreement(segments.mask, token_credit(batch), signs, mask).view(-1, 2).tolist()
        return [{**row, "mask_agreement": shares} for row, shares in zip(found, agreement, strict=True)]

    return map_batches(columns, rows, collator, args, "segments")


def report_examples(rows: Rows, thresholds: Thresholds, tokenizer: PreTrainedTokenizerBase) -> list[Example]:
    """The two responses of every pair with token rewards, cut into segments, for `segkernel.training.report`."""
    examples = []
    for row in rows:
        for side, sign in zip(SIDES, SEQUENCE_SIGNS, strict=True):
            response = (row["prompt_ids"], row[f"{side}_ids"], row[f"{side}_token_rewards"])
            examples.append(report_example(side, *response, sign, thresholds, tokenizer))
    return examples


def report_example(
    label: str,
    prompt_ids: list[int],
    response_ids: list[int],
    token_rewards: list[float],
    sign: int,
    thresholds: Thresholds,
    tokenizer: PreTrainedTokenizerBase,
) -> Example:
    """One response with token rewards, cut into segments, for `segkernel.training.report`."""
    return example_from_segments(
        str(tokenizer.decode(prompt_ids, skip_special_tokens=True)),
        label,
        token_texts(response_ids, tokenizer),
        token_rewards,
        thresholds.segment(torch.tensor([token_rewards]), None, torch.tensor([sign])),
        baseline=thresholds.baseline,
        delta=thresholds.delta,
        pivot_threshold=thresholds.pivot_threshold,
    )
