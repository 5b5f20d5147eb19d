"""Sampled answers, and checks of their form."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.experiments.constraints.prompts import Prompt
from benchmarks.experiments.constraints.rules import RULES, token_credit, violations
from segkernel.training.models.response_tokens import ResponseTokens
from segkernel.training.sampling import SamplingOptions, sample_responses

MAX_TOKENS = 72
# Answers sampled at once, by the type of the model's device. A GPU takes about as long for a token of one answer as for
# one of many.
BATCH_SIZES = {"cpu": 128, "cuda": 1024}
FEWEST_WORDS, MOST_REPEATS = 12, 3


@dataclass(frozen=True)
class Answer:
    """Token ids of an answer, with the EOS last unless it was cut off, and its text without the EOS."""

    ids: tuple[int, ...]
    text: str
    ended: bool

    @property
    def met(self) -> tuple[bool, ...]:
        """Whether the answer meets each rule."""
        return tuple(count == 0 for count in violations(self.text))

    @property
    def is_well_formed(self) -> bool:
        """Whether the answer is plain prose that ends by itself: no cut-off, fragment, list, markup or repetition."""
        words = self.text.lower().split()
        triples = Counter(zip(words, words[1:], words[2:], strict=False))
        return (
            self.ended
            and len(words) >= FEWEST_WORDS
            and self.text.isascii()
            and not any(sign in self.text for sign in "\n*#<>[]|{}_")
            and self.text.rstrip().endswith((".", "!", "?", '"'))
            and max(triples.values(), default=0) < MOST_REPEATS
        )


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> list[int]:
    text = tokenizer.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def sample_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    seed: int,
    samples: int = 1,
    temperature: float = 0.8,
) -> list[list[Answer]]:
    """Sample answers to every prompt."""
    tokens = ResponseTokens.of(model, tokenizer, pad_id=tokenizer.pad_token_id)
    keys = [(seed, row, number) for row in range(len(prompts)) for number in range(samples)]
    encoded = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    responses = sample_responses(
        model,
        [encoded[row] for _, row, _ in keys],
        keys,
        SamplingOptions(max_new_tokens=MAX_TOKENS, temperature=temperature),
        tokens=tokens,
        batch_size=BATCH_SIZES[model.device.type],
    )
    answers = to_answers(tokenizer, tokens, responses)
    return [answers[first : first + samples] for first in range(0, len(answers), samples)]


def to_answers(tokenizer: PreTrainedTokenizerBase, tokens: ResponseTokens, responses: list[list[int]]) -> list[Answer]:
    texts = tokenizer.batch_decode(responses, skip_special_tokens=True)
    ended = tokens.ended(responses).tolist()
    return [Answer(tuple(ids), text, end) for ids, text, end in zip(responses, texts, ended, strict=True)]


def shares_met(answers: Sequence[Answer]) -> dict[str, float]:
    """Share of answers that meet each rule, and all of them."""
    rows = [answer.met for answer in answers]
    shares = {rule.name: sum(row[index] for row in rows) / len(rows) for index, rule in enumerate(RULES)}
    return {**shares, "all": sum(map(all, rows)) / len(rows)}


def answer_credit(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """True credit of each token of an answer. A special token, such as the EOS, violates nothing."""
    return token_credit([token_text(tokenizer, token) for token in ids])


@lru_cache(maxsize=2**17)  # more than a vocabulary; decoding is slow
def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Text of a token; empty for a special one."""
    return str(tokenizer.decode([token], skip_special_tokens=True))
