"""Sampling of responses: its distribution, its inputs, its ends."""

import math
from typing import Any

import pytest
import torch

from segkernel.training.models.response_tokens import ResponseTokens
from segkernel.training.sampling import (
    InverseTransform,
    SamplingOptions,
    sample_responses,
    token_at,
    uniform_numbers,
)
from tests.training.trainer_helpers import tiny_lm, tiny_tokenizer

OPTIONS = SamplingOptions(max_new_tokens=6)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_lm(tiny_tokenizer()).eval()


def sample(
    model: Any,
    prompts: list[list[int]],
    keys: Any,
    options: SamplingOptions = OPTIONS,
    *,
    end_ids: tuple[int, ...] = (1,),
    known_ids: Any = None,
    batch_size: int = 8,
) -> Any:
    tokens = ResponseTokens(end_ids, 0, known_ids)
    return sample_responses(model, prompts, keys, options, tokens=tokens, batch_size=batch_size)


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 0), (0.1999, 0), (0.2, 2), (0.4999, 2), (0.5001, 3), (0.9999999, 3)]
)
def test_inverse_transform_takes_the_token_that_exceeds_the_uniform(uniform: float, token: int) -> None:
    # Probabilities 0.2, 0, 0.3, 0.5, 0; a token of probability 0 is never taken.
    scores = torch.tensor([[math.log(0.2), -math.inf, math.log(0.3), math.log(0.5), -math.inf]])
    left = InverseTransform(torch.tensor([[uniform]], dtype=torch.float64), 1.0)(torch.empty(1, 0), scores)
    assert left.argmax(-1).tolist() == [token]
    assert left.isfinite().sum() == 1


def test_inverse_transform_temperature_literals() -> None:
    # At temperature 0.5 the odds 1 : 2 are 1 : 4, so the second token begins at 0.2.
    scores = torch.tensor([[0.0, math.log(2.0)]] * 2)
    uniforms = torch.tensor([[0.19], [0.21]], dtype=torch.float64)
    assert InverseTransform(uniforms, 0.5)(torch.empty(2, 0), scores).argmax(-1).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 255), (0.2499, 255), (0.25, 256), (0.4999, 256), (0.5, 700), (1 - 2**-53, 700)]
)
def test_token_is_found_across_blocks_of_the_vocabulary(uniform: float, token: int) -> None:
    # A quarter at the last token of the first block, a quarter at the first one of the second, half in the third.
    weights = torch.zeros(1, 1000)
    weights[0, [255, 256, 700]] = torch.tensor([0.25, 0.25, 0.5])
    assert token_at(weights, torch.tensor([[uniform]], dtype=torch.float64)).tolist() == [[token]]


def test_tokens_equal_those_of_a_cumulative_sum_over_the_vocabulary() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(64, 777, generator=generator).mul(4).exp()
    uniforms = torch.rand(64, 1, dtype=torch.float64, generator=generator)
    cumulative = weights.double().cumsum(-1)
    expected = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    assert torch.equal(token_at(weights, uniforms), expected)


def test_samples_follow_the_policy(model: Any) -> None:
    prompt = [5, 9, 7]
    expected = model(torch.tensor([prompt])).logits[0, -1].detach().softmax(-1)
    keys = [(3, index) for index in range(4000)]
    first = [r[0] for r in sample(model, [prompt] * 4000, keys, SamplingOptions(max_new_tokens=1), batch_size=4000)]
    shares = torch.bincount(torch.tensor(first), minlength=len(expected)) / 4000
    # Five standard deviations of the likeliest token's share.
    assert (shares - expected).abs().max() < 5 * math.sqrt(expected.max() / 4000)


def test_response_depends_only_on_its_key(model: Any) -> None:
    prompts = [[5, 9, 7], [5], [6, 7, 8, 9, 10]]
    keys = [(0, 1), (0, 2), (7, 3)]
    together = sample(model, prompts, keys)
    assert [sample(model, [p], [k])[0] for p, k in zip(prompts, keys, strict=True)] == together
    assert sample(model, prompts[::-1], keys[::-1], batch_size=2) == together[::-1]
    assert sample(model, prompts, [(1, 1), (1, 2), (1, 3)]) != together
    assert all(0 not in response for response in together)


def test_response_ends_with_eos_or_is_cut_off(model: Any) -> None:
    free = sample(model, [[5, 9, 7]], [(0, 1)])[0]
    assert len(free) == 6
    # With its third token as the EOS the response ends there.
    assert sample(model, [[5, 9, 7], [8]], [(0, 1), (0, 2)], end_ids=(free[2],))[0] == free[: free.index(free[2]) + 1]


def test_greedy_sampling_takes_the_likeliest_token(model: Any) -> None:
    ids = [5, 9, 7]
    for _ in range(6):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    assert sample(model, [[5, 9, 7]], None, end_ids=()) == [ids[3:]]


@pytest.mark.parametrize("setting", ["repetition_penalty", "suppress_tokens", "bad_words_ids", "min_length", "eos"])
def test_sampling_ignores_the_generation_config_of_the_checkpoint(
    model: Any, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    def samples() -> list[Any]:
        prompts = [[5, 9, 7], [8]]
        return [sample(model, prompts, keys, end_ids=()) for keys in (None, [(0, 1), (0, 2)])]

    expected = samples()
    first, third = expected[0][0][0], expected[0][0][2]
    name, value = {
        "repetition_penalty": ("repetition_penalty", 5.0),
        "suppress_tokens": ("suppress_tokens", [first]),
        "bad_words_ids": ("bad_words_ids", [[first]]),
        "min_length": ("min_length", 8),
        "eos": ("eos_token_id", third),
    }[setting]
    monkeypatch.setattr(model.generation_config, name, value)
    assert samples() == expected
    assert getattr(model.generation_config, name) == value


@pytest.mark.parametrize("keys", [None, [(0, 1), (0, 2), (0, 3)]])
def test_response_ends_with_the_first_of_several_end_tokens(model: Any, keys: Any) -> None:
    prompts = [[5, 9, 7], [8], [6, 7]]
    free = sample(model, prompts, keys, end_ids=())
    ends = (free[0][3], free[1][1], free[2][4])
    expected = [r[: min(r.index(end) for end in ends if end in r) + 1] for r in free]
    assert expected != free
    assert sample(model, prompts, keys, end_ids=ends) == expected
    tokens = ResponseTokens(ends, 0)
    assert tokens.ended([*expected, free[0][:1]]).tolist() == [True, True, True, free[0][0] in ends]


def test_response_tokens_join_the_ends_of_generation_config_and_tokenizer(tokenizer: Any) -> None:
    model = tiny_lm(tokenizer)
    for config, ends in ((None, (1,)), (260, (1, 260)), ([260, 1, 261], (1, 260, 261))):
        model.generation_config.eos_token_id = config
        tokens = ResponseTokens.of(model, tokenizer, pad_id=0)
        assert tokens.end_ids == ends
        assert tokens.known_ids.tolist() == list(range(len(tokenizer)))
    assert ResponseTokens.of(model, None, pad_id=0) == ResponseTokens((1, 260, 261), 0, None)


@pytest.mark.parametrize("keys", [None, [(3, index) for index in range(2000)]])
def test_ids_without_a_token_are_never_sampled(model: Any, keys: Any) -> None:
    # The tokens 10, ..., 19 only, by their probabilities under the policy.
    known = torch.arange(10, 20)
    prompt = [5, 9, 7]
    expected = model(torch.tensor([prompt])).logits[0, -1, 10:20].detach().softmax(-1)
    options = SamplingOptions(max_new_tokens=1)
    count = 1 if keys is None else len(keys)
    ids = [r[0] for r in sample(model, [prompt] * count, keys, options, known_ids=known, batch_size=2000)]
    if keys is None:
        assert ids == [10 + int(expected.argmax())]
    else:
        assert set(ids) == set(range(10, 20))
        shares = torch.bincount(torch.tensor(ids), minlength=20)[10:] / count
        assert (shares - expected).abs().max() < 5 * math.sqrt(expected.max() / count)


def test_uniform_numbers_are_functions_of_their_keys() -> None:
    numbers = uniform_numbers([(1, 2), (1, 3), (1, 2)], 5)
    assert torch.equal(numbers[0], numbers[2])
    assert not torch.equal(numbers[0], numbers[1])
    assert ((numbers >= 0) & (numbers < 1)).all()


def test_sampling_options_refuse_values_out_of_range() -> None:
    with pytest.raises(ValueError, match="temperature: expected a finite number > 0, got 0"):
        SamplingOptions(temperature=0.0)
    with pytest.raises(ValueError, match="max_new_tokens: expected >= 1, got 0"):
        SamplingOptions(max_new_tokens=0)
