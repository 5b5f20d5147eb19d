"""Logits at response tokens: which positions reach the output head, and that they are the model's."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from peft import LoraConfig
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from segkernel.training.data.collators import PreferenceCollator, ResponseCollator
from segkernel.training.models.adapters import with_adapter
from segkernel.training.models.output_head import head_at
from segkernel.training.trainer.batches import model_logits
from segkernel.training.trainer.reference import start_of
from segkernel.training.trainer.response_logits import logprobs_and_entropy, logprobs_under, response_logits
from tests.training.test_first_layers import KINDS, SIZES

HEADS = {
    **KINDS,
    "Bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2},
    "Cohere": {**SIZES, "logit_scale": 0.5},
    "Falcon": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "GPTJ": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64, "rotary_dim": 4},
    "Granite": {**SIZES, "logits_scaling": 2.0},
    "Phi": SIZES,
    "Qwen3": SIZES,
    "XGLM": {"d_model": 16, "num_layers": 1, "attention_heads": 2, "ffn_dim": 16},
}
ROWS = [
    {"prompt_ids": [5, 6, 7], "response_ids": [8, 9]},
    {"prompt_ids": [10], "response_ids": [11, 12, 13, 14]},
    {"prompt_ids": [15, 16], "response_ids": [17]},
]
# The tokens that predict those of the responses, by hand.
BEFORE = [[7, 8], [10, 11, 12, 13], [16]]
PAIRS = [
    {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9], "rejected_ids": [9, 8, 9]},
    {"prompt_ids": [10], "chosen_ids": [11, 12, 13, 14], "rejected_ids": [14]},
]


def model_of(kind: str, vocabulary: int = 32) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocabulary, pad_token_id=0, bos_token_id=1, eos_token_id=1, **HEADS[kind]
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.rand_like(weight))
    return model


@contextmanager
def rows_of_head(head: nn.Module) -> Iterator[list[int]]:
    """Number of hidden states in every call of a head."""
    seen: list[int] = []
    handle = head.register_forward_hook(lambda _, inputs, output: seen.append(output[..., 0].numel()))
    yield seen
    handle.remove()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", HEADS)
def test_head_runs_at_the_tokens_before_those_of_responses_only(kind: str, side: str) -> None:
    model, batch = model_of(kind), ResponseCollator(0, side)(ROWS)
    with torch.no_grad():
        everywhere = model_logits(model, batch)
        with rows_of_head(model.get_output_embeddings()) as seen:
            found = response_logits(model, batch)
    assert seen == [7]
    rows = []
    for row, ids in enumerate(BEFORE):
        places = [batch["input_ids"][row].tolist().index(token) for token in ids]
        rows += [everywhere[row, place] for place in places]
    torch.testing.assert_close(found, torch.stack(rows), rtol=1e-5, atol=1e-5)


def test_pairs_are_rows_chosen_rejected_chosen() -> None:
    model, batch = model_of("Llama"), PreferenceCollator(0)(PAIRS)
    sequences = [[*row["prompt_ids"], *row[f"{side}_ids"]] for row in PAIRS for side in ("chosen", "rejected")]
    prompts = [len(row["prompt_ids"]) for row in PAIRS for _ in range(2)]
    with torch.no_grad():
        alone = [
            model(torch.tensor([ids])).logits[0, start - 1 : -1] for ids, start in zip(sequences, prompts, strict=True)
        ]
        found = response_logits(model, batch)
    torch.testing.assert_close(found, torch.cat(alone), rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_logits_everywhere() -> None:
    batch = ResponseCollator(0)(ROWS)
    batch["loss_mask"][1, 2] = False
    models = [model_of("Llama").double() for _ in range(2)]
    logprobs, entropy = logprobs_and_entropy(
        response_logits(models[0], batch), batch, batch["loss_mask"], temperature=0.7
    )
    everywhere = (model_logits(models[1], batch)[:, :-1] / 0.7).log_softmax(-1)
    expected = everywhere.gather(-1, batch["input_ids"][:, 1:, None])[..., 0] * batch["loss_mask"][:, 1:]
    expected_entropy = -(everywhere.exp() * everywhere).sum(-1) * batch["loss_mask"][:, 1:]
    torch.testing.assert_close(logprobs[:, 1:], expected)
    torch.testing.assert_close(entropy[:, 1:], expected_entropy)
    assert not logprobs[:, 0].any()
    (logprobs.square().sum() + entropy.sum()).backward()
    (expected.square().sum() + expected_entropy.sum()).backward()
    for found, weight in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(found.grad, weight.grad)


def test_a_response_at_the_first_position_has_logits_from_its_second_token_on() -> None:
    model, batch = model_of("Llama"), ResponseCollator(0)([{"prompt_ids": [], "response_ids": [5, 6, 7]}])
    with torch.no_grad():
        logits = response_logits(model, batch)
        expected = model(torch.tensor([[5, 6, 7]])).logits[0, :2]
        logprobs = logprobs_under(logits, batch, batch["response_mask"])
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    first, second = (expected[i].log_softmax(-1)[token].item() for i, token in ((0, 6), (1, 7)))
    assert logprobs[0].tolist() == pytest.approx([0.0, first, second], abs=1e-5)


def test_a_batch_without_response_tokens_has_no_logits_and_gradients_of_zero() -> None:
    model = model_of("Llama")
    batch = ResponseCollator(0)(ROWS)
    batch["response_mask"][:] = False
    logits = response_logits(model, batch)
    assert logits.shape == (0, 32)
    logprobs_under(logits, batch, batch["loss_mask"]).sum().backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())


# --- wrappers --------------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """A language model without a way to find its head."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Any:
        return SimpleNamespace(logits=self.inner(input_ids, attention_mask, position_ids).logits)


class WithoutOutputEmbedding(Plain):
    def get_output_embeddings(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("wrapper", [Plain, WithoutOutputEmbedding, torch.compile])
def test_logits_of_a_model_whose_head_cannot_be_chosen_are_selected(wrapper: Any) -> None:
    model, batch = model_of("Llama"), ResponseCollator(0)(ROWS)
    wrapped = wrapper(model, backend="eager") if wrapper is torch.compile else wrapper(model)
    with torch.no_grad(), rows_of_head(model.lm_head) as seen:
        found = response_logits(wrapped, batch)
        assert seen == [batch["input_ids"].numel()]
        torch.testing.assert_close(found, response_logits(model, batch), rtol=1e-5, atol=1e-5)


def test_head_of_an_adapted_model_and_of_its_reference_is_found() -> None:
    batch = ResponseCollator(0)(ROWS)
    adapted = with_adapter(model_of("Llama"), LoraConfig(r=2, target_modules=["q_proj", "lm_head"])).eval()
    reference = start_of(adapted)
    for model in (adapted, reference):
        head = adapted.get_base_model().get_output_embeddings()
        with torch.no_grad(), rows_of_head(head) as seen:
            found = response_logits(model, batch)
            expected = model_logits(model, batch)
        assert seen == [7, batch["input_ids"].numel()]
        torch.testing.assert_close(found[0], expected[0, 2], rtol=1e-5, atol=1e-5)


def test_every_position_is_back_after_an_error() -> None:
    model, batch = model_of("Llama"), ResponseCollator(0)(ROWS)
    positions = torch.zeros(batch["input_ids"].shape, dtype=torch.bool)
    with pytest.raises(KeyError), head_at(model, positions):
        raise KeyError
    assert model(batch["input_ids"]).logits.shape == (*batch["input_ids"].shape, 32)
