"""Inputs of the trainers other than data: scorers, reference models, teachers, each loaded from options."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from segkernel.training.cli.arguments import DataArguments, RewardArguments
from segkernel.training.models import ModelArguments, load_causal_lm, load_frozen_lm, load_scoring_model
from segkernel.training.models.adapter_options import AdapterArguments
from segkernel.training.models.paths import locate
from segkernel.training.rewards.calculations import CalculationScorer
from segkernel.training.rewards.implicit import ImplicitRewardScorer
from segkernel.training.rewards.prefix_scores import PrefixScorer
from segkernel.training.segmentation.entropy import Segmenter, load_segmenter
from segkernel.training.trainer.base import SegkernelConfig


@dataclass
class Options:
    """Parsed options of `segkernel train METHOD`; `rewards` only for methods that read rewards."""

    config: SegkernelConfig
    data: DataArguments
    model: ModelArguments
    adapter: AdapterArguments
    rewards: RewardArguments


class Input(NamedTuple):
    """One input of a trainer.

    `argument` is the trainer's argument. `check` refuses wrong options before anything is read and returns entries for
    the record of the run; `load` returns the value of the argument.
    """

    argument: str
    check: Callable[[Options], dict[str, str]]
    load: Callable[[Options, PreTrainedTokenizerBase], Any]


def rewards_in_data(options: Options) -> bool:
    """Whether the token rewards are a column of the data (`--token_rewards column`)."""
    return getattr(options.config, "token_rewards", None) == "column"


def check_rewards(options: Options) -> dict[str, str]:
    return {"rewards": source_of_rewards(options.rewards, options.model.model, in_data=rewards_in_data(options))}


def source_of_rewards(rewards: RewardArguments, model: str | None, *, in_data: bool) -> str:
    """The one source of rewards, as the record of the run names it: `column` for token rewards in the data.

    Args:
        rewards: options for other sources.
        model: directory of the model that a `reward_policy` was trained from.
        in_data: whether the token rewards are a column of the data.

    Raises:
        ValueError: there is no source, or there are several, or a reward policy without `model`.
    """
    if in_data and rewards.given():
        raise ValueError(f"token_rewards: expected no other source with `column`, got {rewards.given()[0]}")
    source = "column" if in_data else rewards.source()
    if rewards.reward_policy is not None and model is None:
        raise ValueError("model: expected the model that --reward_policy was trained from, got none (--model DIR)")
    return source


def load_rewards(options: Options, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel | PrefixScorer | None:
    """The scorer of prefixes; `None` if the token rewards are a column of the data."""
    return None if rewards_in_data(options) else load_scorer(options.rewards, options.model, tokenizer)


def load_scorer(
    rewards: RewardArguments, start: ModelArguments, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedModel | PrefixScorer:
    """The scorer of prefixes that `source_of_rewards` found; a model is refused when its tokens are not `tokenizer`'s.

    `start.model` is the reference of a reward policy, and `start.dtype` the data type of every model.
    """
    if rewards.reward_model is not None:
        return load_scoring_model(rewards.reward_model, tokenizer, start.dtype)
    if rewards.reward_policy is None or start.model is None:
        return CalculationScorer(tokenizer)
    policy = load_frozen_lm("reward_policy", rewards.reward_policy, tokenizer, start.dtype)
    reference = load_frozen_lm("model", start.model, tokenizer, start.dtype)
    return ImplicitRewardScorer(policy, reference, beta=rewards.reward_policy_beta)


def segmenter_of(options: Options) -> Segmenter | None:
    """The segmenter saved with a segment reward model; none with another source of rewards."""
    return None if options.rewards.reward_model is None else load_segmenter(options.rewards.reward_model)


def check_segmenter(options: Options) -> dict[str, str]:
    segmenter_of(options)
    return {}


def check_reference(options: Options) -> dict[str, str]:
    if options.model.model is None:
        raise ValueError("model: expected the language model whose entropy cuts the responses (--model DIR), got none")
    return {}


def frozen_lm(name: str, *, required: bool = True) -> Input:
    """Frozen language model whose directory is the option `name`; without one that is not required, `None`."""

    def check(options: Options) -> dict[str, str]:
        path = getattr(options.config, name)
        if path is None and required:
            raise ValueError(f"{name}: expected a directory, got none (--{name} DIR)")
        if path is None:
            return {}
        locate(path, name)
        return {name: path}

    def load(options: Options, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel | None:
        path = getattr(options.config, name)
        if path is None:
            return None
        return load_frozen_lm(name, path, tokenizer, options.model.dtype, merge_adapter=False)

    return Input(name, check, load)


INPUTS = {
    "reward_model": Input("reward_model", check_rewards, load_rewards),
    "segmenter": Input("segmenter", check_segmenter, lambda options, tokenizer: segmenter_of(options)),
    "start_model": Input(
        "ref_model", check_reference, lambda options, tokenizer: load_causal_lm(options.model, tokenizer)
    ),
    "dpo_model": frozen_lm("dpo_model"),
    "reverse_dpo_model": frozen_lm("reverse_dpo_model"),
    "ref_model": frozen_lm("ref_model"),
    "teacher": frozen_lm("teacher"),
    "dpo_reference": frozen_lm("ref_model", required=False),
}
