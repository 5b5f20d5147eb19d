"""Decoding in pieces: the same tokens as in one piece, by fewer rows."""

from typing import Any

import pytest
import torch
from transformers import GemmaConfig, GemmaForCausalLM, MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from segkernel.training import decoding
from segkernel.training.models.response_tokens import ResponseTokens
from segkernel.training.sampling import SamplingOptions, sample_responses
from tests.training.trainer_helpers import tiny_lm, tiny_tokenizer

SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 32}
ATTENTION: dict[str, Any] = {**SIZES, "num_attention_heads": 2, "num_key_value_heads": 1}
MODELS: dict[str, Any] = {
    "llama": lambda: tiny_lm(tiny_tokenizer()),
    "tied": lambda: GemmaForCausalLM(GemmaConfig(**ATTENTION, head_dim=8)),
    "sliding window": lambda: MistralForCausalLM(MistralConfig(**ATTENTION, sliding_window=4)),
    "state space": lambda: MambaForCausalLM(MambaConfig(**SIZES, state_size=4)),
}
PROMPTS = [[5, 9, 7], [8], [6, 7], [12, 13, 14, 15, 16, 17], [9, 9]]
KEYS = [(0, index) for index in range(len(PROMPTS))]
STEPS = 12


def sampled(model: Any, end_ids: tuple[int, ...], keys: Any = KEYS) -> list[list[int]]:
    options, tokens = SamplingOptions(max_new_tokens=STEPS), ResponseTokens(end_ids, 0)
    return sample_responses(model, PROMPTS, keys, options, tokens=tokens, batch_size=8)


@pytest.mark.parametrize("keys", [None, KEYS])
@pytest.mark.parametrize("name", MODELS)
def test_pieces_decode_the_tokens_of_one_piece(name: str, keys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    free = sampled(model, (), keys)  # without an end there is one piece
    assert [len(response) for response in free] == [STEPS] * len(PROMPTS)
    # The responses end at different steps, the first one at the third, within a piece.
    ends = (free[0][2], free[2][5], free[4][9])
    expected = [row[: next((at for at, token in enumerate(row, 1) if token in ends), STEPS)] for row in free]
    assert len({len(row) for row in expected}) > 1
    monkeypatch.setattr(decoding, "PIECE", 4)
    assert sampled(model, ends, keys) == expected


def test_ended_responses_leave_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS["llama"]().eval()
    free = sampled(model, ())
    lengths = [next((at for at, token in enumerate(row, 1) if token == free[0][2]), STEPS) for row in free]
    read: list[int] = []
    model.register_forward_pre_hook(
        lambda module, args, inputs: read.append(len(inputs["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(decoding, "PIECE", 1)
    sampled(model, (free[0][2],))
    assert read == [sum(length >= step for length in lengths) for step in range(1, max(lengths) + 1)]
    assert read[0] == 5 > read[3]


def test_sharded_weights_decode_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    # Processes whose responses end at different steps would otherwise make different calls.
    model = MODELS["llama"]().eval()
    synced: list[bool] = []
    generate = model.generate

    def recorded(*, synced_gpus: bool, **inputs: Any) -> Any:
        synced.append(synced_gpus)
        return generate(**inputs)

    monkeypatch.setattr(model, "generate", recorded)
    monkeypatch.setattr(decoding, "PIECE", 2)
    tokens = ResponseTokens((1,), 0)
    decoding.decode(model, PROMPTS, STEPS, tokens=tokens, processor=None, sharded=True)
    assert synced == [True]
