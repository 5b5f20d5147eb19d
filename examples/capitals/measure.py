"""What the main job measures, and the table it is shown in."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import segkernel
from examples.capitals.pairs import Pair, generate, is_well_formed
from examples.capitals.pipeline import Policies, Settings
from examples.capitals.task import draw_countries, grade, prompt_text, token_credit
from segkernel.training.data.readers import SIDES
from segkernel.training.segmentation.segmenting import SEQUENCE_SIGNS
from segkernel.training.trainer.preference import accuracy_interval

COLUMNS = ("measure", "start", "DPO", "segment-masked DPO")
ADVERSARIAL = 1 / 3


@dataclass(frozen=True)
class Answered:
    """Greedy answers to held-out questions."""

    parts_right: float
    all_right: int
    total: int


def grade_greedy_answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[tuple[str, ...]]
) -> list[tuple[bool, ...] | None]:
    """Whether each part of each greedy answer is right; `None` for a malformed answer."""
    answers = generate(model, tokenizer, questions, sample=False, description="greedy answers")
    return [
        grade(question, "".join(answer)) if is_well_formed(answer, len(question)) else None
        for question, answer in zip(questions, answers, strict=True)
    ]


def answer_questions(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Settings) -> Answered:
    rng = random.Random(f"questions {settings.seed}")
    questions = [draw_countries(rng, settings.parts, key=settings.key) for _ in range(settings.held_out_prompts)]
    graded = [row or (False,) * settings.parts for row in grade_greedy_answers(model, tokenizer, questions)]
    parts = [right for row in graded for right in row]
    return Answered(sum(parts) / len(parts), sum(all(row) for row in graded), len(questions))


class TrainedResponse(NamedTuple):
    """A response as a trainer saw it: its loss mask, the true credit of its tokens, and the sign of its verdict."""

    mask: Sequence[bool]
    credit: Sequence[int]
    sign: int


def responses_of_pairs(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Mapping[str, Any]], pairs: Sequence[Pair]
) -> list[TrainedResponse]:
    """Both sides of every pair, under the masks of the trainer's rows, or whole where these have none."""
    responses = []
    for row, pair in zip(rows, pairs, strict=True):
        for side, sign in zip(SIDES, SEQUENCE_SIGNS, strict=True):
            tokens = tokenizer.convert_ids_to_tokens(row[f"{side}_ids"])
            mask = row.get(f"{side}_mask", [True] * len(tokens))
            responses.append(TrainedResponse(mask, token_credit(tokens, pair.right(side)), sign))
    return responses


def mask_agreement(responses: Iterable[TrainedResponse]) -> tuple[float, float, float]:
    """Share of tokens trained on, and agreement with the true credit of that mask, and of training on every token.

    A token should be trained on where its credit has the sign of its response's verdict.

    Example:
        >>> mask_agreement([TrainedResponse([True, True, False, False], [1, -1, -1, -1], +1)])
        (0.5, 0.75, 0.25)
    """
    kept = agree = everything = total = 0
    for mask, credit, sign in responses:
        for trained, true in zip(mask, credit, strict=True):
            kept += trained
            agree += trained == (true == sign)
            everything += true == sign
            total += 1
    return kept / total, agree / total, everything / total


@torch.no_grad()
def response_logprobs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]
) -> list[list[list[float]]]:
    """Log-probability of every token of every pair's two answers, the chosen one's first."""
    model.eval()
    prompts = [tokenizer(prompt_text(pair.countries))["input_ids"] for pair in pairs for _ in SIDES]
    answers = [tokenizer(text)["input_ids"] for pair in pairs for text in (pair.chosen, pair.rejected)]
    rows = [torch.tensor([*prompt, *answer]) for prompt, answer in zip(prompts, answers, strict=True)]
    ids = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    logits = model(input_ids=ids, attention_mask=mask).logits
    logprobs = segkernel.token_logprobs(logits[:, :-1], ids[:, 1:], mask[:, 1:])
    found = [
        row[len(prompt) - 1 : len(prompt) - 1 + len(answer)].tolist()
        for row, prompt, answer in zip(logprobs, prompts, answers, strict=True)
    ]
    return [list(both) for both in zip(found[::2], found[1::2], strict=True)]


def part_logprobs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]
) -> list[list[float]]:
    """Log-probability of every part of every pair, chosen answer first."""
    # Cities sit at every other token of an answer.
    return [chosen[::2] + rejected[::2] for chosen, rejected in response_logprobs(model, tokenizer, pairs)]


def moved_right(before: list[list[float]], after: list[list[float]], pairs: Sequence[Pair]) -> float:
    """Share of parts whose probability moved as it should: up where right, down where wrong.

    Example:
        >>> pair = Pair(("Peru", "Iran"), chosen="Lima; Baghdad; ", rejected="Cusco")
        >>> moved_right([[-1.0, -1.0, -1.0]], [[-0.5, -0.5, -2.0]], [pair])
        0.6666666666666666
    """
    good = [
        (new > old) if right else (new < old)
        for pair, olds, news in zip(pairs, before, after, strict=True)
        for old, new, right in zip(olds, news, pair.right("chosen") + pair.right("rejected"), strict=True)
    ]
    return sum(good) / len(good)


def measure(policies: Policies, settings: Settings) -> list[dict[str, str]]:
    """The comparison as rows of `COLUMNS`."""
    models = (policies.start, policies.dpo, policies.segment_dpo)
    answered = [answer_questions(model, policies.tokenizer, settings) for model in models]
    logprobs = [part_logprobs(model, policies.tokenizer, policies.held_out) for model in models]
    rows = [
        _row("held-out answers all right", *(_with_interval(a.all_right, a.total) for a in answered)),
        _row("held-out parts right", *(_percent(a.parts_right) for a in answered)),
    ]
    everything = list(range(len(policies.held_out)))
    contrary = [index for index in everything if policies.held_out[index].contradiction >= ADVERSARIAL]
    for name, numbers in (("held-out pairs", everything), ("adversarial pairs", contrary)):
        if not numbers:
            continue
        pairs, (before, dpo, segment) = (
            [policies.held_out[index] for index in numbers],
            [[values[index] for index in numbers] for values in logprobs],
        )
        held_out_rows = policies.segment_trainer.eval_dataset
        assert held_out_rows is not None  # since the trainer was given some
        responses = responses_of_pairs(policies.tokenizer, [held_out_rows[index] for index in numbers], pairs)
        share, masked, unmasked = mask_agreement(responses)
        rows += [
            _row(f"{name} ({len(numbers)}): tokens trained on", "", _percent(1.0), _percent(share)),
            _row(f"{name}: tokens treated as their true credit says", "", _percent(unmasked), _percent(masked)),
            _row(
                f"{name}: parts moved the right way",
                "",
                _percent(moved_right(before, dpo, pairs)),
                _percent(moved_right(before, segment, pairs)),
            ),
        ]
    return rows


def _row(*cells: str) -> dict[str, str]:
    return dict(zip(COLUMNS, cells, strict=True))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _with_interval(correct: int, total: int) -> str:
    low, high = accuracy_interval(correct, total)
    return f"{100 * correct / total:.1f} % [{100 * low:.0f}, {100 * high:.0f}]"
