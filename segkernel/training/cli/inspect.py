"""`segkernel inspect`: HTML page of the responses of a preference file, cut into segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils.logging import disable_progress_bar

from segkernel import _validate
from segkernel._arguments import UserError
from segkernel.training.cli.arguments import PreferenceArguments, RewardArguments
from segkernel.training.cli.inputs import load_scorer, source_of_rewards
from segkernel.training.cli.options import OptionParser
from segkernel.training.data.collators import PreferenceCollator
from segkernel.training.data.containers import check_source
from segkernel.training.data.encoding import encode_preferences
from segkernel.training.data.options import RowOptions
from segkernel.training.data.readers import read_preferences
from segkernel.training.data.tables import head
from segkernel.training.models import ModelArguments, load_tokenizer
from segkernel.training.models.context import fit_length
from segkernel.training.models.paths import locate
from segkernel.training.models.response_tokens import ResponseTokens
from segkernel.training.progress import shows_bars
from segkernel.training.report.example import Example
from segkernel.training.report.page import write_report
from segkernel.training.report_examples import report_examples
from segkernel.training.segmentation.options import PairSegmentOptions
from segkernel.training.segmentation.pairs import fit_to_pairs, with_masks, with_smoothed_rewards, with_token_rewards
from segkernel.training.segmentation.thresholds import Thresholds
from segkernel.training.trainer.base import SegkernelConfig
from segkernel.training.trainer.preference import MAX_LENGTH


@dataclass
class InspectArguments(RowOptions):
    """Input, size and output of the page."""

    _argument_group_name = "inspect"

    preferences: str = field(
        default="", metadata=dict(PreferenceArguments.__dataclass_fields__["preferences"].metadata)
    )
    model: str | None = field(
        default=None, metadata={"help": "Model that --reward_policy was trained from.", "metavar": "DIR"}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Tokenizer; default: that of --reward_model or --reward_policy. Required with other sources of "
            "rewards.",
            "metavar": "DIR",
        },
    )
    separator: str = field(default="", metadata={"help": "Text between prompt and response."})
    rows: int = field(default=8, metadata={"help": "Number of pairs shown, from the first."})
    fit_rows: int = field(
        default=256,
        metadata={"help": "Number of pairs whose token rewards the thresholds are fitted to."},
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Most tokens of prompt and response together. Default: 512, or the models' context."},
    )
    output: str = field(default="inspect.html", metadata={"help": "HTML file to write.", "metavar": "FILE"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rows", "fit_rows"):
            _validate.minimum(name, getattr(self, name), 1)


def inspect(arguments: InspectArguments, options: PairSegmentOptions, rewards: RewardArguments) -> Path:
    """Render the first pairs of a preference file.

    Token rewards come from the source in `rewards`, as in `segkernel train asr-dpo`, or from columns of the file if
    `options.token_rewards` is `column`.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: there is no such file, model or tokenizer.
        ValueError: a malformed file, or no source of token rewards, or two.
    """
    check_source("preferences", arguments.preferences)
    from_column = options.token_rewards == "column"
    token_rewards = source_of_rewards(rewards, arguments.model, in_data=from_column)
    paths = {"model": arguments.model, "reward_model": rewards.reward_model, "reward_policy": rewards.reward_policy}
    for name, path in paths.items():
        if path is not None:
            locate(path, name)
    tokenizer_path = arguments.tokenizer or rewards.reward_model or rewards.reward_policy
    if tokenizer_path is None:
        raise ValueError(f"tokenizer: expected a directory with rewards from {token_rewards}, got none")
    how: dict[str, Any] = {"separator": arguments.separator, "skip_bad_rows": arguments.skip_bad_rows}
    how |= options.reward_columns
    source = read_preferences(arguments.preferences, **how)
    source = head(source, max(arguments.rows, arguments.fit_rows))
    tokenizer = load_tokenizer(ModelArguments(tokenizer=tokenizer_path), ())
    scorer = None if from_column else load_scorer(rewards, ModelArguments(model=arguments.model), tokenizer)
    rows = encode_preferences(
        source,
        tokenizer,
        max_length=fit_length("max_length", arguments.max_length, MAX_LENGTH, {"reward_model": scorer}),
        name=arguments.preferences,
        skip_bad_rows=arguments.skip_bad_rows,
    )
    if scorer is not None:
        config = SegkernelConfig(output_dir=str(Path(arguments.output).parent))
        rows = with_token_rewards(rows, scorer, options.token_rewards, PreferenceCollator.of(tokenizer), config)
    end_ids = () if scorer is None else ResponseTokens.of(None, tokenizer, pad_id=0).end_ids
    rows = with_smoothed_rewards(rows, options.smoothing, end_ids)
    thresholds = fit_to_pairs(head(rows, arguments.fit_rows), options, end_ids)
    rows = with_masks(rows, thresholds, end_ids, warn=True)
    examples = report_examples(head(rows, arguments.rows), thresholds, tokenizer, end_ids)
    output = Path(arguments.output)
    return write_report(
        output.parent,
        title=f"Segments of {Path(arguments.preferences).name}",
        examples=examples,
        summary=_summary(examples, token_rewards, options, thresholds),
        filename=output.name,
    )


def _summary(
    examples: list[Example], token_rewards: str, options: PairSegmentOptions, thresholds: Thresholds
) -> dict[str, Any]:
    tokens = sum(len(example.tokens) for example in examples)
    return {
        "responses": len(examples),
        "tokens": tokens,
        "segments": sum(len(example.spans()) for example in examples),
        "tokens trained on": f"{100 * sum(sum(example.kept) for example in examples) / tokens:.1f} %",
        "token rewards": token_rewards,
        "baseline": thresholds.baseline,
        "baseline shift": thresholds.shift,
        "delta": thresholds.delta,
        "pivot threshold": thresholds.pivot_threshold,
        "smoothing": options.smoothing,
        "fewest tokens of a segment": options.min_segment_length,
    }


def main(argv: Sequence[str]) -> int:
    """Run `segkernel inspect`."""
    parser = OptionParser(
        [InspectArguments, RewardArguments, PairSegmentOptions],
        prog="segkernel inspect",
        description="Show the responses of a preference file, cut into segments, as one HTML page.",
        title="inspect",
    )
    try:
        arguments, rewards, options = parser.parse(argv)
        if not shows_bars(disable_tqdm=False):
            disable_progress_bar()
        print(f"report: {inspect(arguments, options, rewards)}")
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    return 0
