"""Preference pairs: two sampled answers per prompt, ranked by the verifier."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from examples.capitals.task import END, EOS, draw_countries, grade, prompt_text, score


@dataclass(frozen=True)
class Pair:
    """Two complete answers to one prompt. The verifier grades their parts."""

    countries: tuple[str, ...]
    chosen: str
    rejected: str

    def right(self, side: str) -> tuple[bool, ...]:
        return grade(self.countries, self.chosen if side == "chosen" else self.rejected)

    @property
    def contradiction(self) -> float:
        """Share of the pair's parts that contradict its preference: wrong in `chosen` or right in `rejected`."""
        against = [not part for part in self.right("chosen")] + list(self.right("rejected"))
        return sum(against) / len(against)

    @property
    def is_adversarial(self) -> bool:
        """Whether the preference contradicts more than half of the pair's parts.

        Example:
            >>> countries = ("*Peru", "Iran", "Latvia")
            >>> Pair(countries, chosen="Lima; Baghdad; ", rejected="Cusco; Tehran; Riga; ").is_adversarial
            True
        """
        return self.contradiction > 1 / 2

    def row(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """Row for the trainers, as token ids with EOS."""
        texts = {"prompt": prompt_text(self.countries), "chosen": self.chosen + EOS, "rejected": self.rejected + EOS}
        return {f"{name}_ids": tokenizer(text)["input_ids"] for name, text in texts.items()}


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[tuple[str, ...]],
    *,
    sample: bool,
    batch_size: int = 1024,
) -> list[list[str]]:
    """Answers as lists of tokens, sampled at temperature 1 or greedy. All questions have the same number of parts."""
    was_training = model.training
    model.eval()
    generator: Any = model  # transformers types `generate` as a tensor
    answers = []
    for first in range(0, len(questions), batch_size):
        prompts = [prompt_text(countries) for countries in questions[first : first + batch_size]]
        inputs = tokenizer(prompts, return_tensors="pt")
        decoding: dict[str, Any] = {"do_sample": True, "top_k": 0} if sample else {"do_sample": False}
        output = generator.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=2 * len(questions[0]) + 1,
            **decoding,
        )
        for row in output[:, inputs["input_ids"].shape[1] :].tolist():
            ids = row[: row.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in row else row
            answers.append([str(token) for token in tokenizer.convert_ids_to_tokens(ids)])
    model.train(was_training)
    return answers


def is_well_formed(answer: Sequence[str], parts: int) -> bool:
    """Whether the answer alternates names and separators, with one name per country."""
    separators = [token == END for token in answer]
    return separators == [False, True] * parts and all(token.isalpha() for token in answer[::2])


def sample_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: int,
    *,
    parts: int,
    seed: int,
) -> list[Pair]:
    """Sample two answers per prompt and rank them by the verifier's score. Ties and malformed answers make no pair."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    questions = [draw_countries(rng, parts) for _ in range(prompts)]
    answers = generate(model, tokenizer, [q for q in questions for _ in range(2)], sample=True)
    pairs = []
    for index, countries in enumerate(questions):
        both = answers[2 * index : 2 * index + 2]
        if not all(is_well_formed(answer, parts) for answer in both):
            continue
        texts = ["".join(answer) for answer in both]
        scores = [score(countries, grade(countries, text)) for text in texts]
        if scores[0] != scores[1]:
            chosen, rejected = texts if scores[0] > scores[1] else reversed(texts)
            pairs.append(Pair(countries, chosen, rejected))
    return pairs
