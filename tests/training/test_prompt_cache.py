"""Prompts that share text: it is read once, and the responses are those of prompts read one by one."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from segkernel.training import prompt_cache
from segkernel.training.models.response_tokens import ResponseTokens
from segkernel.training.prompt_cache import common_beginning
from segkernel.training.sampling import SamplingOptions, sample_responses
from tests.training.test_decoding import MODELS

FIRST, SECOND, THIRD = [5, 9, 7, 8, 11, 20], [5, 9, 7, 8, 12], [5, 9, 7, 8, 30]
STEPS = 3
TOKENS = ResponseTokens((), 0)


def sampled(model: PreTrainedModel, prompts: list[list[int]], keys: Any) -> list[list[int]]:
    return sample_responses(
        model, prompts, keys, SamplingOptions(max_new_tokens=STEPS), tokens=TOKENS, batch_size=len(prompts)
    )


def shapes_read(model: PreTrainedModel, prompts: list[list[int]]) -> list[tuple[int, ...]]:
    """Shapes of the ids that the forward passes read, until the first token is sampled."""
    found: list[tuple[int, ...]] = []

    def record(module: Any, args: Any, inputs: Any) -> None:
        found.append(tuple(inputs["input_ids"].shape))

    handle = model.register_forward_pre_hook(record, with_kwargs=True)
    sampled(model, prompts, None)
    handle.remove()
    return found[: len(found) - STEPS + 1]


@pytest.mark.parametrize("keys", [None, [(3, index) for index in range(6)]], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "prompts",
    [
        [FIRST, SECOND, FIRST, THIRD, SECOND, FIRST],
        [FIRST, SECOND, THIRD, [5, 9, 7, 8], [5, 9, 7, 8, 31, 32], [5, 9, 7, 8, 11, 20, 21]],
        [FIRST] * 6,
        [[5]] * 6,
        [FIRST, [6], FIRST, [7], [6], [5, 9, 7, 8, 11]],
    ],
    ids=["both", "beginning", "one prompt", "one token", "different lengths"],
)
def test_responses_are_those_of_prompts_read_one_by_one(
    name: str, prompts: list[list[int]], keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    alone = [sampled(model, [prompt], None if keys is None else [keys[at]])[0] for at, prompt in enumerate(prompts)]
    assert len({tuple(row) for row in alone}) > 1 or len({tuple(prompt) for prompt in prompts}) == 1
    monkeypatch.setattr(prompt_cache, "FEWEST", 2)
    assert sampled(model, prompts, keys) == alone


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        # The beginning, the rest of the three prompts but their last tokens, and these for every row.
        ([FIRST, SECOND, FIRST, THIRD, SECOND, FIRST], [(1, 4), (3, 1), (6, 1)]),
        ([FIRST, SECOND, THIRD], [(1, 4), (3, 2)]),
        ([SECOND, THIRD, SECOND], [(1, 4), (3, 1)]),
        ([FIRST, FIRST], [(1, 5), (2, 1)]),
        ([FIRST, [6, 7], FIRST], [(2, 5), (3, 1)]),
        ([FIRST, [6, 7]], [(2, 6)]),
        ([[5], [5]], [(2, 1)]),
    ],
)
def test_what_is_shared_is_read_once(
    prompts: list[list[int]], expected: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt_cache, "FEWEST", 2)
    assert shapes_read(MODELS["llama"](), prompts) == expected


def test_a_short_beginning_has_no_pass_of_its_own() -> None:
    shared = list(range(5, 20))
    assert shapes_read(MODELS["llama"](), [[*shared, 40], [*shared, 41]]) == [(2, 16)]
    shared += [30]
    assert shapes_read(MODELS["llama"](), [[*shared, 40], [*shared, 41]]) == [(1, 16), (2, 1)]


def test_a_window_of_attention_has_no_columns_to_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its cache may have dropped the first columns, so the prompts are read whole.
    monkeypatch.setattr(prompt_cache, "FEWEST", 2)
    assert shapes_read(MODELS["sliding window"](), [FIRST, SECOND])[-1] == (2, 6)


def test_common_beginning() -> None:
    texts = torch.tensor([[1, 2, 3, 4], [0, 1, 2, 9]])  # the second one begins with padding
    pads = torch.tensor([0, 1])
    assert common_beginning(texts, pads).tolist() == [[1, 2]]
    same: Tensor = torch.tensor([[1, 2, 3], [0, 1, 2]])  # each keeps its last token
    assert common_beginning(same, pads).tolist() == [[1]]
