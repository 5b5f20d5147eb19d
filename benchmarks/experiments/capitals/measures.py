"""Measures of a policy on the capitals task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.experiments.capitals.workspace import CapitalsWorkspace
from benchmarks.experiments.policies.credit import TrainedResponse, responses_of_pairs
from benchmarks.experiments.policies.logprobs import (
    PairLogprobs,
    PairMasks,
    divergence,
    pair_logprobs,
    preference_accuracy,
)
from examples.capitals.answers import answer_accuracy, draw_questions
from examples.capitals.pairs import Pair, generate
from examples.capitals.task import prompt_text, token_credit
from segkernel.training.data.columns import SIDES


def measure_policy(work: CapitalsWorkspace, model: PreTrainedModel) -> dict[str, float | None]:
    """Accuracy of its answers, its distance from the start model, and how it ranks held-out pairs."""
    adversarial = work.adversarial_held_out()
    before, after = (pair_logprobs(policy, work.rows(adversarial)) for policy in (work.policy(), model))
    return {
        **measure_answers(work, model),
        **measure_samples(work, model),
        "preference_accuracy": held_out_accuracy(work, model),
        "moved_right": moved_right(before, after, adversarial),
    }


def measure_answers(work: CapitalsWorkspace, model: PreTrainedModel) -> dict[str, float]:
    """Accuracy of greedy answers to held-out questions."""
    questions = draw_questions(work.seed, work.settings.questions, work.settings.task.parts)
    return asdict(answer_accuracy(model, work.tokenizer, questions))


def measure_samples(work: CapitalsWorkspace, model: PreTrainedModel) -> dict[str, float]:
    """Length in tokens of sampled answers to held-out questions, and their divergence from the start model."""
    parts = work.settings.task.parts
    questions = draw_questions(work.seed, work.settings.questions, parts)
    torch.manual_seed(work.seed)
    answers = generate(model, work.tokenizer, questions, sample=True)
    prompts = [work.tokenizer(prompt_text(question))["input_ids"] for question in questions]
    ids = [answer_ids(work.tokenizer, answer, 2 * parts) for answer in answers]
    return {
        "length": sum(map(len, answers)) / len(answers),
        "kl": divergence(model, work.policy(), prompts, ids),
    }


def answer_ids(tokenizer: PreTrainedTokenizerBase, answer: list[str], length: int) -> list[int]:
    """Token ids of a sampled answer, with EOS unless it was cut off for being longer than a complete one."""
    ids: Any = tokenizer.convert_tokens_to_ids(answer)
    return ids + ([tokenizer.eos_token_id] if len(answer) <= length else [])


def held_out_accuracy(
    work: CapitalsWorkspace, model: PreTrainedModel, masks: Sequence[PairMasks] | None = None
) -> float:
    """Share of held-out pairs ranked right by the policy's implicit reward, of whole answers or under masks."""
    rows = work.rows(work.measured_pairs())
    before, after = (pair_logprobs(policy, rows) for policy in (work.policy(), model))
    return preference_accuracy(before, after, masks)


def moved_right(before: Sequence[PairLogprobs], after: Sequence[PairLogprobs], pairs: Sequence[Pair]) -> float | None:
    """Share of parts whose probability moved in the right direction: up where right, down where wrong.

    `None` without pairs.

    Example:
        >>> pair = Pair(("Peru", "Iran"), chosen="Lima; Baghdad; ", rejected="Cusco; ")
        >>> before = [-1.0, -9.0, -1.0, -9.0, -9.0], [-1.0, -9.0, -9.0]
        >>> after = [-0.5, -9.0, -0.5, -9.0, -9.0], [-2.0, -9.0, -9.0]
        >>> moved_right([before], [after], [pair]), moved_right([], [], [])
        (0.6666666666666666, None)
    """
    # Cities are at every other token of an answer, before its EOS.
    good = [
        (new > old) if right else (new < old)
        for pair, olds, news in zip(pairs, before, after, strict=True)
        for side, name in enumerate(SIDES)
        for old, new, right in zip(olds[side][:-1:2], news[side][:-1:2], pair.right(name), strict=True)
    ]
    return sum(good) / len(good) if good else None


def trained_responses(
    tokenizer: PreTrainedTokenizerBase, rows: Iterable[Mapping[str, Any]], pairs: Sequence[Pair]
) -> list[TrainedResponse]:
    """Both sides of every pair with their masks and true credit."""
    rows = list(rows)
    credits = [
        {side: token_credit(tokenizer.convert_ids_to_tokens(row[f"{side}_ids"]), pair.right(side)) for side in SIDES}
        for row, pair in zip(rows, pairs, strict=True)
    ]
    return responses_of_pairs(rows, credits)
