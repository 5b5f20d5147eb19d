"""Reward functions of texts and of batches: what they get, what they may return, and errors before training."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor

from segkernel.training import (
    ASRDPOConfig,
    ASRDPOTrainer,
    ASRRFTConfig,
    ASRRFTTrainer,
    PPOConfig,
    PPOTrainer,
    R3HFPPOConfig,
    R3HFPPOTrainer,
    RFTConfig,
    RFTTrainer,
)
from segkernel.training.data.collators import PreferenceCollator, ResponseCollator
from segkernel.training.rewards.functions import function_scorer
from segkernel.training.rewards.prefix_scores import token_rewards
from tests.training.trainer_helpers import QUICK, pairs, prompts, tiny_lm

EOS = 1
PROMPT, FIRST, SECOND = "say red:", "red é red", "blue"


@pytest.fixture(params=["right", "left"])
def batch(request: pytest.FixtureRequest, tokenizer: Any) -> dict[str, Tensor]:
    """Two responses with their EOS; the second is cut off and has none."""
    ids = [tokenizer(text)["input_ids"] for text in (PROMPT, FIRST, SECOND)]
    rows = [
        {"prompt_ids": ids[0], "response_ids": [*ids[1], EOS]},
        {"prompt_ids": ids[0][:2], "response_ids": ids[2]},
    ]
    return ResponseCollator(0, request.param)(rows)


def in_responses(scores: Tensor, batch: dict[str, Tensor]) -> list[list[float]]:
    return [row[mask].tolist() for row, mask in zip(scores, batch["response_mask"], strict=True)]


def test_text_function_gets_texts_without_special_tokens(tokenizer: Any, batch: dict[str, Tensor]) -> None:
    seen: dict[str, Any] = {}

    def reward(prompts: list[str], responses: list[str], tokens: list[list[str]]) -> list[float]:
        seen.update(prompts=prompts, responses=responses, tokens=tokens)
        return [0.5, -2.0]

    scores = function_scorer(reward, tokenizer, every_prefix=False)(batch)
    assert seen["prompts"] == [PROMPT, tokenizer.decode(tokenizer(PROMPT)["input_ids"][:2])]
    assert seen["responses"] == [FIRST, SECOND]
    assert ["".join(pieces) for pieces in seen["tokens"]] == [FIRST + tokenizer.eos_token, SECOND]
    # One score per response stands at its last token.
    lengths = batch["response_mask"].sum(1).tolist()
    assert in_responses(scores, batch) == [[0.0] * (lengths[0] - 1) + [0.5], [0.0] * (lengths[1] - 1) + [-2.0]]


def test_text_function_of_trl_is_called_by_keyword(tokenizer: Any, batch: dict[str, Tensor]) -> None:
    def reward(completions: list[str], **kwargs: Any) -> list[float | None]:
        assert kwargs["prompts"][0] == PROMPT
        return [float(len(completions[0])), None]

    scores = function_scorer(reward, tokenizer, every_prefix=False)(batch)
    assert in_responses(scores, batch)[0][-1] == len(FIRST)
    assert torch.isnan(scores).sum() == 1


def test_text_function_scores_every_prefix_for_token_rewards(tokenizer: Any, batch: dict[str, Tensor]) -> None:
    def reward(prompts: list[str], responses: list[str]) -> Tensor:
        return torch.tensor([float(len(response)) for response in responses])

    scores = function_scorer(reward, tokenizer, every_prefix=True)(batch)
    rewards = in_responses(token_rewards(scores, batch, "difference"), batch)
    # A token adds its characters; of the two tokens of the é the second completes it; the EOS adds none.
    pieces = [[tokenizer.decode(token) for token in tokenizer(text)["input_ids"]] for text in (FIRST, SECOND)]
    split = [index for index, piece in enumerate(pieces[0]) if "\ufffd" in piece]
    assert len(split) == 2
    pieces[0][split[0]], pieces[0][split[1]] = "", "é"
    assert rewards == [[*(float(len(piece)) for piece in pieces[0]), 0.0], [float(len(piece)) for piece in pieces[1]]]


@pytest.mark.parametrize("every_prefix", [True, False])
def test_lists_are_token_rewards(tokenizer: Any, batch: dict[str, Tensor], every_prefix: bool) -> None:
    lengths = batch["response_mask"].sum(1).tolist()
    given = [[0.5 * (index - 2) for index in range(length)] for length in lengths]

    def reward(prompts: list[str], responses: list[str]) -> list[list[float]]:
        return given

    scores = function_scorer(reward, tokenizer, every_prefix=every_prefix)(batch)
    assert in_responses(token_rewards(scores, batch, "difference"), batch) == given
    assert in_responses(scores, batch)[0][-1] == sum(given[0])


@pytest.mark.parametrize("flat", [True, False])
def test_batch_function_returns_the_shape_of_input_ids(flat: bool) -> None:
    rows = [{"prompt_ids": [5, 6], "chosen_ids": [7, 8, 1], "rejected_ids": [9, 1]}] * 2
    pair_batch = PreferenceCollator()(rows)

    def reward(batch: dict[str, Tensor]) -> Tensor:
        assert batch["input_ids"].shape == (2, 2, 5)
        return batch["input_ids"].flatten(0, 1) if flat else batch["input_ids"]

    scores = function_scorer(reward, None, every_prefix=True)(pair_batch)
    assert scores.dtype == torch.float32
    assert scores[0].tolist() == [5.0, 6.0, 7.0, 8.0, 1.0]
    assert scores.shape == (4, 5)


def one_per_row(batch: dict[str, Tensor]) -> Tensor:
    return torch.zeros(len(batch["input_ids"]))


def a_list(batch: dict[str, Tensor]) -> list[float]:
    return [0.0]


def one_score(prompts: list[str], responses: list[str]) -> list[float]:
    return [0.0]


def short_lists(prompts: list[str], responses: list[str]) -> list[list[float]]:
    return [[0.0]] * len(responses)


def both(prompts: list[str], responses: list[str]) -> list[Any]:
    return [0.0, [0.0, 0.0]]


def words(prompts: list[str], responses: list[str]) -> list[str]:
    return ["good"] * len(responses)


def positional(p: Any, r: Any) -> list[float]:
    return []


ERRORS: list[tuple[Any, str]] = [
    (one_per_row, r"reward_model: expected \[2, \d+\], one score per prefix, got \[2\]"),
    (a_list, r"reward_model: expected a real tensor \[2, \d+\], one score per prefix, got list"),
    (one_score, r"reward_model: expected 2 scores, one per response, got 1"),
    (short_lists, r"reward_model: expected 2 token rewards for response 1, one per token, got 1"),
    (both, r"reward_model: expected a score for each response, or a list for each, got both"),
    (words, r"reward_model: expected numbers, got str"),
    (positional, r"reward_model: expected a function of `prompts` and `responses`, or of one batch, got .* \(p, r\)"),
]


@pytest.mark.parametrize(("function", "message"), ERRORS, ids=[function.__name__ for function, _ in ERRORS])
def test_wrong_reward_function_is_an_error_before_sampling(
    tmp_path: Path, tokenizer: Any, function: Callable[..., Any], message: str
) -> None:
    options = {**QUICK, "max_new_tokens": 4, "max_prompt_length": 32}
    for config_type, trainer_type in ((PPOConfig, PPOTrainer), (ASRRFTConfig, ASRRFTTrainer)):

        class NeverSampled(trainer_type):  # type: ignore[valid-type]
            def sample(self, *args: Any, **kwargs: Any) -> Any:
                raise AssertionError("sampled")

        with pytest.raises(ValueError, match=message):
            NeverSampled(
                tiny_lm(tokenizer),
                config_type(str(tmp_path), **options),
                prompts(4),
                None,
                tokenizer,
                reward_model=function,
            )


def test_trainers_learn_from_text_functions_without_evaluation_data(tmp_path: Path, tokenizer: Any) -> None:
    """Data sets of text rows, a tokenizer and a function; the other settings are defaults, evaluation included."""

    def reward(prompts: list[str], responses: list[str]) -> list[float]:
        return [response.count("e") / 2 for response in responses]

    sampling = {"max_new_tokens": 4, "max_prompt_length": 32}
    short = {"use_cpu": True, "per_device_train_batch_size": 2, "max_steps": 1, "logging_steps": 1}
    rows = Dataset.from_list(prompts(2))
    for config_type, trainer_type, data, options in (
        (RFTConfig, RFTTrainer, rows, {**sampling, "samples": 2}),
        (PPOConfig, PPOTrainer, rows, sampling),
        (R3HFPPOConfig, R3HFPPOTrainer, rows, sampling),
        (ASRDPOConfig, ASRDPOTrainer, Dataset.from_list(pairs(4)), {"max_length": 64}),
    ):
        config = config_type(str(tmp_path / trainer_type.__name__), **short, **options)
        trainer: Any = trainer_type(tiny_lm(tokenizer), config, data, processing_class=tokenizer, reward_model=reward)
        trainer.train()
        assert trainer.state.global_step == 1
        if trainer_type is RFTTrainer:
            row = trainer.train_dataset[0]
            assert row["reward"] == tokenizer.decode(row["response_ids"], skip_special_tokens=True).count("e") / 2
        if trainer_type is ASRDPOTrainer:
            for row in trainer.train_dataset:
                texts = [tokenizer.decode(token) for token in row["chosen_ids"][:-1]]
                expected = [text.count("e") / 2 for text in texts]
                assert row["chosen_token_rewards"] == [*expected, 0.0]
