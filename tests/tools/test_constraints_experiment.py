"""Experiment on the real model: rules, credit, pairs and measures by hand, and a seed on a tiny random model."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")
pytest.importorskip("tabulate")

import torch
from matplotlib.colors import to_rgba
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForTokenClassification, LlamaModel, PreTrainedTokenizerFast

from benchmarks.experiments import __main__ as command
from benchmarks.experiments.constraints import __main__ as segments_command
from benchmarks.experiments.constraints import grammar
from benchmarks.experiments.constraints.answers import Answer, answer_credit, sample_answers, shares_met
from benchmarks.experiments.constraints.experiment import EXPERIMENT
from benchmarks.experiments.constraints.measures import measure_answers
from benchmarks.experiments.constraints.pair_selectors import TIS_DPO
from benchmarks.experiments.constraints.pairs import Pair, judge, make_pairs
from benchmarks.experiments.constraints.preferences import DPO, START
from benchmarks.experiments.constraints.prompts import TOPICS, Prompt
from benchmarks.experiments.constraints.rules import token_credit, violations
from benchmarks.experiments.constraints.sample_selectors import SLM_RFT
from benchmarks.experiments.constraints.segmented import (
    ADVANCE,
    COLORS,
    END,
    KEY,
    LEADING,
    SegmentedAnswer,
    draw_answers,
    read_answers,
    save_png,
    write_answers,
)
from benchmarks.experiments.constraints.settings import ConstraintsSettings
from benchmarks.experiments.constraints.stages import REWARD
from benchmarks.experiments.constraints.workspace import ConstraintsWorkspace
from benchmarks.experiments.framework.plan import Plan
from benchmarks.experiments.policies.logprobs import gained, pair_logprobs
from benchmarks.experiments.pretrained import models as model_files
from benchmarks.experiments.pretrained.models import Models, converted, save_trained
from benchmarks.experiments.pretrained.trunk import CachedTrunk, HiddenStates, freeze_trunk
from examples.common.workers import quiet
from segkernel.training.data.columns import SIDES
from segkernel.training.rewards.reward_model import prefix_scores
from tests.quiet import restored_after_quiet

ADVERSARIAL = "adversarial pairs"
# Every word ends with a period, so any sequence of words that is long enough is well-formed.
WORDS = "sea. sun. ship. moon. rain. wolf. bread. train. snow. map. hill,. to. sing. flying. extraordinary.".split()
GOOD = "Rivers carry water down from hills. They feed towns and fields on every side."


@pytest.fixture(scope="module", autouse=True)
def restored_process():
    with restored_after_quiet():
        yield


def answer(text: str, ended: bool = True) -> Answer:
    return Answer(tuple(range(len(text.split()))), text, ended)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Close to the sun, rising over an extraordinary sea", (1, 1, 1, 1)),
        ("To and fro, up, down", (2, 1, 0, 0)),
        ("Into tomorrow's tools", (0, 0, 0, 0)),  # "to" inside of words
        ("butterflys strawberries", (0, 0, 1, 0)),  # 10 and 12 letters
        ("abcdefghijk abcdefghi1jk sugar-free-bakeries", (0, 0, 1, 0)),  # 11 letters; digits and hyphens end a word
        ("Ring ing Singing kings", (0, 0, 0, 2)),  # a word of the letters "ing" only has no stem
        ("INTERESTING", (0, 0, 1, 1)),
        ("", (0, 0, 0, 0)),
    ],
)
def test_violations_literals(text, expected):
    assert violations(text) == expected


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["To", " sun", ",", " shin", "ing"], [-1, 1, -1, -1, -1]),
        # "to" across two tokens, and the first letters of a word that is none.
        (["t", "o", " go", " to", "wn"], [-1, -1, 1, 1, 1]),
        # One token with the end of a violation and the start of a right word.
        (["extra", "ordinar", "y s", "ea"], [-1, -1, -1, 1]),
        # A violation's neighbors and an empty token, such as the EOS, have positive credit.
        (["a", ",", "b", ""], [1, -1, 1, 1]),
        ([], []),
    ],
)
def test_token_credit_literals(pieces, expected):
    assert token_credit(pieces) == expected


@pytest.mark.parametrize(
    ("text", "ended", "expected"),
    [
        (GOOD, True, True),
        (GOOD, False, False),  # cut off
        ("one two three four five six seven eight nine ten eleven.", True, False),
        ("one two three four five six seven eight nine ten eleven twelve.", True, True),
        (GOOD.removesuffix("."), True, False),
        (GOOD + ' "Yes!"', True, True),
        ("- " + GOOD + "\n- More.", True, False),
        ("**" + GOOD, True, False),
        ("Café " + GOOD, True, False),
        ("the sea is " * 2 + GOOD, True, True),
        ("the sea is " * 3 + GOOD, True, False),
    ],
)
def test_well_formed_literals(text, ended, expected):
    assert answer(text, ended).is_well_formed is expected


def test_judge_lets_the_first_rule_outweigh_the_others():
    breaks_first, breaks_others = answer("Ships, boats"), answer("to an extraordinary spring")
    assert [judge(Prompt("Why?", first=0), one) for one in (breaks_first, breaks_others)] == [3.0, 3.5]
    assert [judge(Prompt("Why?", first=1), one) for one in (breaks_first, breaks_others)] == [5.5, 1.0]


def test_pairs_literals():
    prompt = Prompt("Why?", first=0)
    clean = answer(GOOD)
    comma = answer("Rivers carry water, down from hills. They feed towns and fields on every side.")
    # The first rule is met, but three words violate two others.
    worse = answer("Rivers come to an extraordinary sea to feed towns and fields on every side.")
    short = answer("No.")
    pairs = make_pairs([(prompt, [comma, worse, short]), (prompt, [clean, clean])], seed=0)
    assert pairs == [Pair(prompt, chosen=worse, rejected=comma)]
    (pair,) = pairs
    assert pair.contradiction == 3 / 4
    assert pair.is_adversarial
    # As many violations on both sides: no contradiction of most of them.
    tie = Pair(prompt, chosen=answer("to"), rejected=answer("a,"))
    assert tie.contradiction == 1 / 2
    assert not tie.is_adversarial
    assert Pair(prompt, clean, clean).contradiction == 0
    assert len(make_pairs([(prompt, [clean, comma, worse])], seed=0)) == 3


def test_prompts_hold_out_every_fourth_topic(tmp_path):
    work = ConstraintsWorkspace(ConstraintsSettings(), tmp_path, seed=1)
    held_out = TOPICS[3::4]
    for prompt in work.prompts("test", 200, held_out=True):
        assert any(topic in prompt.request for topic in held_out)
    for prompt in work.prompts("test", 200):
        (topic,) = {max((topic for topic in TOPICS if topic in prompt.request), key=len)}
        assert topic not in held_out
    assert work.prompts("test", 5) == work.prompts("test", 5)
    assert work.prompts("test", 5) != ConstraintsWorkspace(ConstraintsSettings(), tmp_path, seed=2).prompts("test", 5)
    messages = Prompt("Why?", first=1).messages
    assert messages[1] == {"role": "user", "content": "Why?"}
    assert messages[0]["content"].endswith('words in "-ing". Above all, no "to".')


def test_answer_measures_literals():
    comma_and_to = answer("Rivers, that go to the hills. They feed towns and fields on every side.")
    cut = answer(GOOD, ended=False)
    assert shares_met([comma_and_to, cut]) == {
        "no commas": 0.5,
        'no "to"': 0.5,
        "no long words": 1.0,
        'no "-ing"': 1.0,
        "all": 0.5,
    }
    assert measure_answers([comma_and_to, cut]) == {
        "met": 0.25,  # (2 of 4, and 0 for the answer that was cut off) / 2
        "all_met": 0.0,
        "malformed": 0.5,
        "length": 14.0,
        "no commas": 0.5,
        'no "to"': 0.5,
        "no long words": 1.0,
        'no "-ing"': 1.0,
    }


def test_grammar_lints_count_errors_but_no_style_and_no_missing_commas():
    pytest.importorskip("harper")
    assert grammar.lints_per_100_words([GOOD]) == 0
    # "an test", "the the", and "could of" in 10 + 4 + 14 words.
    texts = ["This is an test of the the linter we use.", "We could of gone.", GOOD]
    assert grammar.lints_per_100_words(texts) == pytest.approx(100 * 3 / 28)
    assert grammar.lints_per_100_words(["This is a very good test."]) == 0  # "excellent" is a matter of taste
    assert grammar.lints_per_100_words(["We grow apples, pears and plums."]) == 0  # the Oxford comma
    assert grammar.lints_per_100_words([""]) is None


def test_grammar_lints_are_not_measured_without_the_package(monkeypatch):
    monkeypatch.setattr(grammar, "linter", lambda: None)
    assert grammar.lints_per_100_words([GOOD]) is None
    monkeypatch.setattr(command, "installed_versions", lambda name: {})
    assert command.missing_packages(EXPERIMENT) == [
        "grammar lints: not measured, since the package harper-py is not installed"
    ]
    monkeypatch.setattr(command, "installed_versions", lambda name: {name: "0.2.0"})
    assert command.missing_packages(EXPERIMENT) == []


SEGMENTED = SegmentedAnswer(
    "Why?", "rejected", ("Go", " to", " the", " shin", "ing", " $ea$", END), ((0, 1, 0), (1, 4, 1), (4, 7, -1))
)


def test_runs_of_a_segmented_answer_are_cut_at_segments_and_violations():
    assert [(SEGMENTED.text[run.start : run.end], *run[2:]) for run in SEGMENTED.runs()] == [
        ("Go", 0, False, True),
        (" ", 1, False, True),
        ("to", 1, True, False),
        (" the ", 1, False, False),
        ("shin", 1, True, False),
        ("ing", -1, True, True),  # the rest of the violation, in the next segment
        (f" $ea${END}", -1, False, False),
    ]


def test_segmented_answers_survive_their_file(tmp_path):
    write_answers(tmp_path / "answers.json", [SEGMENTED, replace(SEGMENTED, side="chosen")])
    assert len((tmp_path / "answers.json").read_text().splitlines()) == 4
    assert read_answers(tmp_path / "answers.json") == [SEGMENTED, replace(SEGMENTED, side="chosen")]


def test_picture_of_answers_shows_texts_colors_and_underlines():
    long = replace(SEGMENTED, tokens=tuple(" word" for _ in range(50)), segments=((0, 50, 1),))
    (axes,) = draw_answers([SEGMENTED, long]).axes
    assert [text.get_text() for text in axes.texts][4:] == [
        "rejected: Why?",
        f"Go to the shining $ea${END}",
        "rejected: Why?",
        *(text.rstrip() for text in (" word" * 11, *["word " * 11] * 3, "word " * 6)),
    ]
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)][3:]  # after those of the key
    rectangles = boxes[:7]
    assert [round(one.get_x() + one.get_width()) for one in rectangles] == [2, 3, 5, 10, 14, 17, 23]
    assert [one.get_facecolor() for one in rectangles] == [to_rgba(COLORS[sign]) for sign in (0, 1, 1, 1, 1, -1, -1)]
    # No box for the blank at the end of a line.
    assert boxes[-5].get_width() + boxes[-5].get_x() == 55
    # The word "to", and the two parts of "shining".
    underlines = [tuple(line.get_xdata()) for line in axes.lines[1:]]
    assert underlines == [(3, 5), (10, 14), (14, 17)]


def test_picture_of_answers_wraps_long_prompts():
    (axes,) = draw_answers([replace(SEGMENTED, request="Name the tallest mountain of every continent, please.")]).axes
    assert [text.get_text() for text in axes.texts][4:6] == [
        "rejected: Name the tallest mountain of every",
        "continent, please.",
    ]


def test_characters_of_a_png_have_the_width_of_their_boxes(tmp_path):
    save_png([replace(SEGMENTED, tokens=("x" * 50,), segments=((0, 1, 1),))], tmp_path / "answers.png")
    top, bottom = (int(150 * LEADING * y) for y in (KEY + 1.1, KEY + 1.9))
    dark = (imread(tmp_path / "answers.png")[top:bottom, :, :3].max(-1) < 0.5).any(0)
    assert 49.5 < dark.nonzero()[0].max() / (150 * ADVANCE) < 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random Llama of 2 + 2 layers and a tokenizer of whole words."""
    path = tmp_path_factory.mktemp("model")
    vocabulary = {word: index for index, word in enumerate(["[UNK]", "[PAD]", "[EOS]", *(f"▁{w}" for w in WORDS)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", eos_token="[EOS]"
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        pad_token_id=1,
        eos_token_id=2,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def loaded(folder) -> Models:
    quiet()
    return Models(str(folder), trained_layers=2)


def without_cache(model: LlamaForCausalLM, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits of all layers at once."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
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
        expected = without_cache(policy, ids, mask)
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
    again = Models(str(made), trained_layers=2)
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
    freeze_trunk(other, HiddenStates(), trained=1)
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


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A seed at minimal size, on adversarial pairs: its workspace and its results."""
    settings = replace(
        ConstraintsSettings().quick(),
        seeds=(0,),
        model=str(folder),
        trained_layers=2,
        prompts=10,
        samples=5,
        held_out_samples=5,
        reward_pairs=16,
        policy_pairs=16,
        batch_size=8,
        questions=4,
        measured_pairs=4,
    )
    root = tmp_path_factory.mktemp("constraints")
    conditions = {ADVERSARIAL: EXPERIMENT.conditions[ADVERSARIAL]}
    plan = Plan(replace(EXPERIMENT, settings=settings, conditions=conditions))
    with ThreadPoolExecutor(1, initializer=quiet) as pool:
        results = command.run(plan, root, pool, processes=1)
    return ConstraintsWorkspace(settings, root, 0), results


@pytest.mark.slow
def test_results_have_every_measure(finished):
    work, results = finished
    of = {entry["method"]: entry["per_seed"] for entry in results["methods"]}
    assert list(of) == [method.name for method in EXPERIMENT.methods]
    columns = {column.measure for column in EXPERIMENT.columns} - ({"lints"} if grammar.linter() is None else set())
    assert of["asr-dpo"].keys() == columns
    by_segments = {"segments", "masked_preference_accuracy"}
    assert of["dpo"].keys() == columns - by_segments
    for name in ("tis-dpo", "simpo", "confpo", "sepo"):
        assert of[name].keys() == columns - by_segments, name
    assert of["asr-rft"].keys() == columns - by_segments - {"chosen_trained", "rejected_trained"}
    shares = {column.measure for column in EXPERIMENT.columns if column.unit == "percent"}
    for per_seed in of.values():
        assert all(0 <= value <= 1 for name in shares & per_seed.keys() for value in per_seed[name])
    assert of["no training"]["kl"] == [0.0]
    assert of["dpo"]["kl"][0] > 0
    assert of["dpo"]["tokens_trained"] == of["simpo"]["tokens_trained"] == [1.0]
    for side in ("chosen_trained", "rejected_trained"):
        assert 0 < of["sepo"][side][0] <= 0.3
        assert 0 < of["confpo"][side][0] < 1
    assert of["true credit"]["mask_agreement"] == [1.0]
    for name in ("chosen_trained", "rejected_trained"):
        assert of["random-dpo"][name][0] == pytest.approx(of["asr-dpo"][name][0], abs=0.05)
    # ceil(0.6 n) of the n tokens of every micro-batch.
    assert of["slm-rft"]["tokens_trained"] == [pytest.approx(0.6, abs=0.02)]
    assert of["slm-rft"].keys() == of["random-rft"].keys()
    for name in ("ppo", "asr-ppo", "random-ppo", "entropy-ppo"):
        assert of[name].keys() == of["rft"].keys(), name
        assert of[name]["kl"][0] > 0, name
    assert of["ppo"]["tokens_trained"] == [1.0]
    assert of["random-ppo"]["tokens_trained"][0] == pytest.approx(of["asr-ppo"]["tokens_trained"][0], abs=0.05)
    # ceil(0.2 n) of the n tokens of every micro-batch.
    assert of["entropy-ppo"]["tokens_trained"] == [pytest.approx(0.2, abs=0.02)]
    trained = work.policy_pairs("adversarial")
    credit = {
        side: [sign for pair in trained for sign in answer_credit(work.tokenizer, getattr(pair, side).ids)]
        for side in SIDES
    }
    right = credit["chosen"].count(1) + credit["rejected"].count(-1)
    total = len(credit["chosen"]) + len(credit["rejected"])
    assert of["dpo"]["mask_agreement"] == [pytest.approx(right / total)]
    # The EOS has weight 0.
    assert of["tis-dpo"]["tokens_trained"] == [pytest.approx(1 - 2 * len(trained) / total)]
    # Rejected sides violate less.
    assert credit["rejected"].count(-1) < credit["chosen"].count(-1)


def gains(work, rows, *jobs):
    """Log-probability that the policies of jobs gained over the start model: chosen and rejected sides of all rows."""
    start, *trained = (pair_logprobs(model, rows) for model in (work.policy(), *map(work.policy, jobs)))
    return [
        tuple(sum(gained(old[s], new[s], None) for old, new in zip(start, after, strict=True)) for s in (0, 1))
        for after in trained
    ]


@pytest.mark.slow
def test_reference_models_of_tis_dpo_prefer_opposite_sides(finished):
    work, _ = finished
    job = TIS_DPO.job(0, EXPERIMENT.conditions[ADVERSARIAL])
    assert [needed.label for needed in job.needs] == ["dpo pairs=adversarial", "reverse dpo pairs=adversarial"]
    dpo, reverse = gains(work, work.training_rows("adversarial"), *job.needs)
    assert dpo[0] > dpo[1]
    assert reverse[0] < reverse[1]


@pytest.mark.slow
def test_reference_model_of_slm_rft_learned_the_preferred_answers(finished):
    work, _ = finished
    job = SLM_RFT.job(0, EXPERIMENT.conditions[ADVERSARIAL])
    assert [needed.label for needed in job.needs] == ["reward pairs=all", "preferred answers pairs=all"]
    ((chosen, _),) = gains(work, work.training_rows("all"), job.need("preferred answers"))
    assert chosen > 0
    unique = {(pair.prompt, pair.chosen.ids) for pair in work.policy_pairs("all")}
    assert work.finished(job.need("preferred answers")) == {"answers": len(unique)}


@pytest.mark.slow
def test_pairs_of_a_seed_follow_the_judge(finished):
    work, results = finished
    pairs, adversarial = work.pairs("all"), work.pairs("adversarial")
    assert len(pairs) > len(adversarial) > 0
    assert all(judge(pair.prompt, pair.chosen) > judge(pair.prompt, pair.rejected) for pair in pairs)
    assert adversarial == [pair for pair in pairs if pair.contradiction > 0.5]
    (stage,) = (stage["per_seed"] for stage in results["stages"] if stage["stage"] == "answers")
    assert (stage["pairs"], stage["adversarial"]) == ([len(pairs)], [len(adversarial)])
    assert len(work.policy_pairs("adversarial")) == min(16, len(adversarial))


@pytest.mark.slow
def test_answers_of_every_policy_are_kept(finished):
    work, results = finished
    of = {entry["method"]: entry["per_seed"] for entry in results["methods"]}
    for method in (START, DPO):
        kept = work.policy_answers(method.job(0, EXPERIMENT.conditions[ADVERSARIAL]))
        assert [prompt for prompt, _ in kept] == work.prompts("questions", 4, held_out=True)
        measured = measure_answers([one for _, (one,) in kept])
        assert {name: of[method.name][name] for name in measured} == {name: [value] for name, value in measured.items()}


@pytest.mark.slow
def test_segments_command_writes_the_first_pairs_of_different_prompts(finished, monkeypatch, capsys, tmp_path):
    work, _ = finished
    monkeypatch.setattr(segments_command, "EXPERIMENT", replace(EXPERIMENT, settings=work.settings))
    monkeypatch.setattr(ConstraintsSettings, "folder", lambda settings, output: work.folder.parent)
    data = tmp_path / "answers.json"
    assert segments_command.main(["--pairs", "2", "--output", str(data)]) == 0
    found = read_answers(data)
    assert [one.side for one in found] == ["chosen", "rejected"] * 2
    first = work.pairs("held out")[0]
    assert found[0].request == first.prompt.request
    texts = [one.text.replace("[UNK]", "").replace("[PAD]", "") for one in found]  # special tokens stay visible
    assert texts[:2] == [first.chosen.text + END, first.rejected.text + END]
    for one in found:
        assert [start for start, _, _ in one.segments] == [0, *(end for _, end, _ in one.segments[:-1])]
        assert one.segments[-1][1] == len(one.tokens)
    assert "data:image/png;base64," in (tmp_path / "answers" / "report.html").read_text()
    with pytest.raises(SystemExit):
        segments_command.main(["--seed", "9"])
    assert "--seed: expected a seed with a trained reward model in" in capsys.readouterr().err


def test_reward_model_of_a_job_scores_as_it_was_trained_to(tmp_path, monkeypatch):
    config = LlamaConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_labels=1)
    loaded = SimpleNamespace(reward_model=lambda folder: LlamaForTokenClassification(config))
    monkeypatch.setattr(ConstraintsWorkspace, "models", loaded)
    work, job = ConstraintsWorkspace(ConstraintsSettings(), tmp_path, 0), REWARD.job(0, {"pairs": "all"})
    work.store(job, {"score_scale": 0.25})
    model = work.reward_model(job).eval()
    ids, attention = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": attention, "position_ids": torch.arange(4).expand(2, 4)}
    batch["response_mask"] = torch.tensor([[False, True, True, True], [False, True, False, False]])
    with torch.no_grad():
        outputs = model(input_ids=ids, attention_mask=attention).logits[..., 0]
        scores = prefix_scores(model, batch)
    assert scores[0, 3].item() == pytest.approx(0.25 * outputs[0, 1:].sum().item(), abs=1e-6)
    assert scores[1, 1].item() == pytest.approx(0.25 * outputs[1, 1].item(), abs=1e-6)
