"""Preference pairs of the task: sampled from the start model, judged by the verifier."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from examples.capitals.task import END, draw_countries, grade, prompt_text, score


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, with what the verifier knows of their parts."""

    countries: tuple[str, ...]
    chosen: str
    rejected: str

    def right(self, side: str) -> tuple[bool, ...]:
        return grade(self.countries, self.chosen if side == "chosen" else self.rejected)

    @property
    def contradiction(self) -> float:
        """Share of the pair's parts that contradict its preference: wrong in `chosen`, right in `rejected`."""
        against = [not part for part in self.right("chosen")] + list(self.right("rejected"))
        return sum(against) / len(against)

    def row(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """The pair for the trainers, tokenised without an EOS: the answers were cut off, they did not end."""
        texts = {"prompt": prompt_text(self.countries), "chosen": self.chosen, "rejected": self.rejected}
        return {f"{name}_ids": tokenizer(text)["input_ids"] for name, text in texts.items()}


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[tuple[str, ...]],
    *,
    sample: bool,
    description: str,
    batch_size: int = 1024,
) -> list[list[str]]:
    """Answers as lists of tokens, by sampling at temperature 1 or greedily; all questions have as many countries."""
    model.eval()
    generator: Any = model  # transformers types `generate` as a tensor
    answers = []
    for first in tqdm(range(0, len(questions), batch_size), desc=description):
        prompts = [prompt_text(countries) for countries in questions[first : first + batch_size]]
        inputs = tokenizer(prompts, return_tensors="pt")
        chosen_how: dict[str, Any] = {"do_sample": True, "top_k": 0} if sample else {"do_sample": False}
        output = generator.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=2 * len(questions[0]) + 1,
            **chosen_how,
        )
        for row in output[:, inputs["input_ids"].shape[1] :].tolist():
            ids = row[: row.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in row else row
            answers.append([str(token) for token in tokenizer.convert_ids_to_tokens(ids)])
    return answers


def is_well_formed(answer: Sequence[str], parts: int) -> bool:
    """Whether cities and separators take turns, one city per country."""
    separators = [token == END for token in answer]
    return separators == [False, True] * parts and not any(token.startswith("<|") for token in answer)


def sample_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: int,
    *,
    parts: int,
    seed: int,
    description: str,
    key: bool = False,
) -> list[Pair]:
    """Sample two answers per prompt, each under a token limit of its own, and let the verifier prefer one.

    The limits make answers of every length, so a reward model of whole answers learns to score any prefix; and
    since a wrong part costs, a longer answer is not a better one. Equal scores, and malformed answers, make no pair.
    """
    rng = random.Random(seed)
    torch.manual_seed(seed)
    questions = [draw_countries(rng, parts, key=key) for _ in range(prompts)]
    answers = generate(model, tokenizer, [q for q in questions for _ in range(2)], sample=True, description=description)
    pairs = []
    for index, countries in enumerate(questions):
        both = answers[2 * index : 2 * index + 2]
        if not all(is_well_formed(answer, parts) for answer in both):
            continue
        texts = ["".join(answer[: rng.randint(1, 2 * parts)]) for answer in both]
        scores = [score(countries, grade(countries, text)) for text in texts]
        if scores[0] != scores[1]:
            pairs.append(Pair(countries, *(texts if scores[0] > scores[1] else reversed(texts))))
    return pairs
