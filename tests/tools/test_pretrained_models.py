"""Pretrained model of the experiments: the cache of its trunk, its trained layers, its files."""

import copy
from dataclasses import replace

import pytest

pytest.importorskip("transformers")
pytest.importorskip("tabulate")

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel

from benchmarks.experiments.constraints.answers import answer_credit, sample_answers
from benchmarks.experiments.constraints.prompts import Prompt
from benchmarks.experiments.constraints.settings import ConstraintsSettings
from benchmarks.experiments.constraints.stages import REWARD
from benchmarks.experiments.constraints.workspace import ConstraintsWorkspace
from benchmarks.experiments.pretrained import models as model_files
from benchmarks.experiments.pretrained.models import Models, converted, save_trained
from benchmarks.experiments.pretrained.trunk import CachedTrunk, HiddenStates, freeze_trunk
from examples.common.workers import quiet
from tests.quiet import restored_after_quiet
from tests.tools.constraints_model import write_model


@pytest.fixture(scope="module", autouse=True)
def restored_process():
    with restored_after_quiet():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    write_model(path)
    return path


@pytest.fixture(params=[torch.bfloat16, torch.float32])
def loaded(folder, request) -> Models:
    quiet()
    return Models(str(folder), trained_layers=2, dtype=request.param)


def without_cache(model: LlamaForCausalLM, ids: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Logits of all layers at once."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        hidden = LlamaModel.forward(model.model, input_ids=ids, attention_mask=mask, use_cache=False)
        return model.lm_head(hidden.last_hidden_state)


def padded(rows: list[list[int]], *, left: bool, pad: int) -> tuple[Tensor, Tensor]:
    """Ids and attention mask `[B, T]`."""
    width = max(map(len, rows))
    ids, mask = torch.full((len(rows), width), pad), torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, place], mask[index, place] = torch.tensor(row), 1
    return ids, mask


ROWS = [[5, 3, 9, 4, 7], [6, 8, 3, 4, 5, 9, 10, 3], [7, 7, 3]]


@torch.no_grad()
def test_cached_trunk_gives_the_bits_of_all_layers(loaded):
    policy = loaded.policy()
    for row in ROWS:
        ids, mask = padded([row], left=False, pad=1)
        expected = without_cache(policy, ids, mask, loaded.dtype)
        for _ in range(2):  # the second time from the cache
            assert torch.equal(policy(input_ids=ids, attention_mask=mask).logits, expected)
        assert torch.equal(policy(input_ids=ids).logits, expected)
    assert len(loaded.cache.found) == len(ROWS)


@torch.no_grad()
@pytest.mark.parametrize("left", [False, True])
def test_cached_trunk_is_independent_of_padding_and_other_rows(loaded, left):
    policy = loaded.policy()
    alone = [policy(input_ids=torch.tensor([row])).logits[0] for row in ROWS]
    for pad in (1, 9):
        ids, mask = padded(ROWS, left=left, pad=pad)
        found = policy(input_ids=ids, attention_mask=mask).logits
        for row, kept, expected in zip(found, mask.bool(), alone, strict=True):
            # The trained layers see other shapes and positions, in bfloat16.
            torch.testing.assert_close(row[kept], expected, atol=0.02, rtol=0.02)
    # The hidden states of a text are computed once, whatever the rows around it.
    assert set(loaded.cache.found) == {tuple(row) for row in ROWS}
    loaded.cache.found = {text: torch.zeros_like(hidden) for text, hidden in loaded.cache.found.items()}
    same = policy(input_ids=torch.tensor([[5, 3]])).logits
    assert torch.equal(same, loaded.policy()(input_ids=torch.tensor([[5, 3]])).logits)


@torch.no_grad()
def test_hidden_states_of_texts_with_a_common_beginning_are_those_of_each_text_alone(loaded):
    start = [5, 3, 9, 4]
    rows = [[*start, 7, 8], [*start, 7, 6, 10], start, [*start, 11], [5, 8, 4, 7], [6, 3, 9, 4]]
    policy = loaded.policy()
    ids, mask = padded(rows, left=False, pad=1)
    policy(input_ids=ids, attention_mask=mask)
    together = dict(loaded.cache.found)
    loaded.cache.found.clear()
    for row in rows:
        policy(input_ids=torch.tensor([row]))
        alone = loaded.cache[tuple(row)]
        assert alone.shape == (len(row), policy.config.hidden_size)
        tolerance = 1e-5 if loaded.dtype == torch.float32 else 0.02
        torch.testing.assert_close(together[tuple(row)], alone, atol=tolerance, rtol=tolerance)


@torch.no_grad()
def test_hidden_states_keep_the_texts_used_last_within_their_limit(loaded):
    policy, cache = loaded.policy(), loaded.cache
    cache.limit = sum(map(len, ROWS))
    ids, mask = padded(ROWS, left=True, pad=1)
    expected = policy(input_ids=ids, attention_mask=mask).logits[mask.bool()]
    policy(input_ids=torch.tensor([ROWS[0]]))
    policy(input_ids=torch.tensor([[11]]))
    assert list(cache.found) == [tuple(ROWS[2]), tuple(ROWS[0]), (11,)]
    assert cache.tokens == 3 + 5 + 1
    cache.limit = 1  # nothing is kept of a batch that is longer
    found = policy(input_ids=ids, attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0.02)  # computed in another batch, in bfloat16
    assert (cache.found, cache.tokens) == ({}, 0)


def test_gradients_reach_only_the_trained_layers(loaded):
    ids, mask = padded(ROWS, left=False, pad=1)
    for model, head in (
        (loaded.policy(), ()),
        (loaded.reward_model(), ("score.weight", "score.bias", "model.norm.weight")),
    ):
        if head:
            torch.nn.init.ones_(model.score.weight)
        model(input_ids=ids, attention_mask=mask).logits[mask.bool()].square().sum().backward()
        reached = {name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()}
        trained = {
            name for name, _ in model.named_parameters() if name.startswith(("model.layers.2.", "model.layers.3."))
        }
        assert reached == trained | {*head}
        assert {name for name, value in model.named_parameters() if value.requires_grad} == reached
        assert {value.dtype for name, value in model.named_parameters() if name in reached} == {torch.float32}


@pytest.mark.parametrize("layers", [1, 3])
def test_head_of_a_reward_model_reads_the_output_of_the_first_layers(folder, layers):
    quiet()
    model = Models(str(folder), 2, torch.float32, reward_layers=layers).reward_model()
    head = {"model.norm.weight", "score.weight", "score.bias"}
    assert {name for name, value in model.named_parameters() if value.requires_grad} == head
    torch.nn.init.normal_(model.score.weight)
    ids, mask = padded(ROWS, left=False, pad=1)
    scores = model(input_ids=ids, attention_mask=mask).logits
    with torch.no_grad():
        every = LlamaForCausalLM.from_pretrained(folder)(ids, mask, output_hidden_states=True).hidden_states
        normal = every[layers] * (every[layers].square().mean(-1, keepdim=True) + model.config.rms_norm_eps).rsqrt()
        expected = normal @ model.score.weight.T + model.score.bias
    torch.testing.assert_close(scores[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=1e-5)


def test_value_model_and_policy_do_not_depend_on_the_layers_of_the_reward_model(folder):
    quiet()
    shallow, deep = (Models(str(folder), 2, torch.float32, reward_layers=layers) for layers in (1, None))
    ids = torch.tensor([ROWS[0]])
    with torch.no_grad():
        shallow.reward_model()(input_ids=ids)  # keeps the output of one layer for this text
        assert torch.equal(shallow.policy()(input_ids=ids).logits, deep.policy()(input_ids=ids).logits)
        value = shallow.value_model()
        assert not value(input_ids=ids).logits.any()
    assert len(value.model.layers) == 4
    assert not any(value.get_parameter(f"model.layers.{layer}.mlp.up_proj.weight").requires_grad for layer in (0, 1))
    assert all(value.get_parameter(f"model.layers.{layer}.mlp.up_proj.weight").requires_grad for layer in (2, 3))


def test_models_and_trainers_follow_the_device(folder, monkeypatch, tmp_path):
    def on(device: str) -> ConstraintsWorkspace:
        monkeypatch.setattr(Models, "device", torch.device(device))
        settings = replace(ConstraintsSettings(), model=str(folder), trained_layers=2)
        return ConstraintsWorkspace(settings, tmp_path / device, 0)

    for device, use_cpu in (("meta", False), ("cpu", True)):
        work = on(device)
        options = work.trainer_options(REWARD.job(0, {"pairs": "all"}), steps=1, learning_rate=1.0)
        assert options["use_cpu"] is use_cpu
        for model in (work.policy(), work.models.reward_model()):
            assert {value.device.type for value in (*model.parameters(), *model.buffers())} == {device}


def test_converted_model_is_written_once_and_equal(folder, loaded, monkeypatch, tmp_path):
    made = converted(str(folder), tmp_path / "model")
    again = Models(str(made), trained_layers=2, dtype=loaded.dtype)
    ids = torch.tensor([ROWS[1]])
    with torch.no_grad():
        assert torch.equal(again.policy()(input_ids=ids).logits, loaded.policy()(input_ids=ids).logits)
    text = "sea. hill,. [EOS]"
    assert again.tokenizer(text)["input_ids"] == loaded.tokenizer(text)["input_ids"]
    assert again.tokenizer.chat_template == loaded.tokenizer.chat_template
    assert again.pretrained.generation_config.eos_token_id == loaded.pretrained.generation_config.eos_token_id == 2
    monkeypatch.setattr(model_files, "read_pretrained", None)
    assert converted(str(folder), tmp_path / "model") == made


def test_deep_copies_share_the_hidden_states(loaded):
    policy = loaded.policy()
    assert copy.deepcopy(policy).model.cache is policy.model.cache is loaded.reward_model().model.cache
    config = LlamaConfig(vocab_size=9, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
    other = LlamaForCausalLM(config)
    freeze_trunk(other, HiddenStates(), trained=1, dtype=torch.bfloat16)
    assert isinstance(other.model, CachedTrunk)
    with pytest.raises(ValueError, match="inputs_embeds: expected input_ids"):
        other(inputs_embeds=torch.zeros(1, 2, 16))


def test_generation_does_not_depend_on_the_cache(loaded):
    prompts = [Prompt("sea. sun. ship.", first=0), Prompt("moon.", first=1)]
    policy = loaded.policy()
    before = sample_answers(policy, loaded.tokenizer, prompts, seed=3, samples=2)
    assert loaded.cache.found == {}
    ids = torch.tensor([list(before[0][0].ids)])
    with torch.no_grad():
        policy(input_ids=ids)
    assert sample_answers(policy, loaded.tokenizer, prompts, seed=3, samples=2) == before
    assert len({one.text for answers in before for one in answers}) == 4
    for one in before[0]:
        # Texts of the tokens join to the answer; an EOS violates nothing.
        assert len(answer_credit(loaded.tokenizer, one.ids)) == len(one.ids)
        assert not one.ended or one.ids[-1] == 2


def test_trained_weights_are_saved_and_read(loaded, folder, tmp_path):
    ids = torch.tensor([ROWS[0]])
    for model, read in ((loaded.policy(), loaded.policy), (loaded.reward_model(), loaded.reward_model)):
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.2)
        save_trained(model, tmp_path / type(model).__name__)
        again = read(tmp_path / type(model).__name__)
        assert not again.training
        with torch.no_grad():
            assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)
            assert not torch.equal(again(input_ids=ids).logits, read()(input_ids=ids).logits)
    assert not loaded.reward_model()(input_ids=ids).logits.any()
