"""Experiment on GSM8K: reader and split on hand-written pairs, and a complete run with a tiny model."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

pytest.importorskip("transformers")
pytest.importorskip("tabulate")

from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.experiments import __main__ as command
from benchmarks.experiments.framework.data import store_rows
from benchmarks.experiments.framework.plan import Plan
from benchmarks.experiments.gsm8k.experiment import EXPERIMENT
from benchmarks.experiments.gsm8k.measures import measure_pairs
from benchmarks.experiments.gsm8k.methods import RANDOM_DPO, SEPO
from benchmarks.experiments.gsm8k.pairs import read_pairs, split_pairs
from benchmarks.experiments.gsm8k.settings import GSM8KSettings
from benchmarks.experiments.gsm8k.workspace import GSM8KWorkspace
from examples.common.workers import quiet
from tests.quiet import restored_after_quiet
from tests.training.tokenizers import chatml

# Two pairs per problem.
ROWS = [
    {"prompt": f"{n} + 2?", "chosen": f"{n} + 2 = {n + 2}", "rejected": f"{n} + 2 = {n + wrong}"}
    for n in range(12)
    for wrong in (3, 4)
]


@pytest.fixture(scope="module", autouse=True)
def restored_process():
    with restored_after_quiet():
        yield


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_reader_keeps_the_three_texts(tmp_path):
    path = write(tmp_path / "pairs.jsonl", [{**row, "chosen_source": "model"} for row in ROWS])
    assert read_pairs(path) == ROWS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "gsm8k"], "--data: expected a file of pairs of solutions (see docs/experiments.md)"),
        (["--task", "gsm8k", "--data", "missing.jsonl"], "got missing.jsonl, which does not exist"),
        (["--task", "gsm8k", "--data", "few.jsonl"], "few.jsonl: expected pairs for at least 10 problems, got 9"),
        (["--task", "gsm8k", "--data", "broken.jsonl"], "broken.jsonl, line 2"),
        (["--task", "capitals", "--data", "few.jsonl"], "expected none, since the task capitals makes its data"),
    ],
)
def test_unusable_data_file_is_one_line_of_error(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "few.jsonl", ROWS[:18])
    (tmp_path / "broken.jsonl").write_text(json.dumps(ROWS[0]) + '\n{"prompt": \n')
    assert command.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m benchmarks.experiments: error: --data: ")
    assert message in line


def test_pairs_of_a_problem_are_on_one_side_of_the_split():
    tokenizer = chatml()

    def problems(rows):
        texts = [tokenizer.decode(row["prompt_ids"]) for row in rows]
        return {int(text.split("user\n")[1].split(" + ")[0]) for text in texts}

    sides = [split_pairs(ROWS, tokenizer, held_out=0.25, max_length=1000, seed=seed) for seed in (0, 0, 1)]
    for side in sides:
        assert (len(side.training), len(side.held_out), side.too_long) == (18, 6, 0.0)
        assert problems(side.training) | problems(side.held_out) == set(range(12))
        assert not problems(side.training) & problems(side.held_out)
    assert sides[0] == sides[1]
    assert problems(sides[0].held_out) != problems(sides[2].held_out)


def test_split_drops_whole_pairs_that_are_too_long():
    longer = [*ROWS, {"prompt": "0 + 2?", "chosen": "2", "rejected": "0 + 2 = 3" + ", so that it is 3" * 9}]
    side = split_pairs(longer, chatml(), held_out=0.25, max_length=150, seed=0)
    assert len(side.training) + len(side.held_out) == 24
    assert side.too_long == pytest.approx(1 / 25)


def test_measures_of_pairs_literals():
    before = [([-1.0, -1.0], [-1.0]), ([-2.0], [-2.0, -2.0])]
    after = [([-0.5, -0.5], [-2.0]), ([-2.5], [-2.0, -2.0])]
    # Gains of 1 and -0.5 on the right, of -1 and 0 on the wrong solutions.
    assert measure_pairs(before, after, beta=0.5) == {
        "preference_accuracy": 0.5,
        "likelihood_accuracy": 0.5,
        "chosen_reward": 0.125,
        "rejected_reward": -0.25,
    }


def test_selector_and_control_need_the_policies_that_they_read():
    sources = EXPERIMENT.conditions["all pairs"]
    assert [job.label for job in SEPO.job(0, sources).needs] == ["dpo pairs=all"]
    assert [job.label for job in RANDOM_DPO.job(0, sources).needs] == ["asr-dpo pairs=all"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Results of one seed with a tiny model, and the workspace."""
    folder = tmp_path_factory.mktemp("gsm8k")
    tokenizer = chatml()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    settings = GSM8KSettings(
        seeds=(0,),
        model=str(folder / "model"),
        trained_layers=1,
        held_out_problems=0.25,
        reward_pairs=4,
        reward_epochs=1,
        policy_pairs=4,
        policy_steps=2,
        batch_size=4,
        micro_batch=2,
        measured_pairs=6,
        measured_answers=3,
    )
    store_rows(ROWS, folder)
    plan = Plan(replace(EXPERIMENT, settings=settings))
    with ThreadPoolExecutor(1, initializer=quiet) as pool:
        return command.run(plan, folder, pool, processes=1), GSM8KWorkspace(settings, folder, 0)


def test_results_have_every_measure(results):
    found, _ = results
    of = {entry["method"]: {name: value for name, (value,) in entry["per_seed"].items()} for entry in found["methods"]}
    assert list(of) == ["no training", "dpo", "asr-dpo", "random-dpo", "simpo", "confpo", "sepo"]
    everything = {column.measure for column in EXPERIMENT.columns}
    assert of["asr-dpo"].keys() == everything
    for name in ("dpo", "random-dpo", "simpo", "confpo", "sepo"):
        assert of[name].keys() == everything - {"segments", "masked_preference_accuracy"}, name
    assert of["no training"].keys() == {"preference_accuracy", "likelihood_accuracy"}
    assert of["no training"]["preference_accuracy"] == 0.5
    for name, measures in of.items():
        assert measures["preference_accuracy"] * 6 == pytest.approx(round(measures["preference_accuracy"] * 6)), name
        assert measures.get("kl", 1.0) > 0, name
    assert of["dpo"]["tokens_trained"] == of["simpo"]["tokens_trained"] == 1.0
    for side in ("chosen", "rejected"):
        kept = of["asr-dpo"][f"{side}_trained"]
        assert of["random-dpo"][f"{side}_trained"] == pytest.approx(kept, abs=0.2)
        assert 0 < of["sepo"][f"{side}_trained"] <= 0.3
        assert 0 < of["confpo"][f"{side}_trained"] < 1
    assert {entry["method"]: entry["baseline"] for entry in found["methods"]}["random-dpo"] == "asr-dpo"


def test_policies_start_from_the_same_pairs_and_log_probabilities(results):
    _, work = results
    start = work.start_logprobs()
    assert len(start) == len(work.held_out_rows()) == 6
    for (chosen, rejected), row in zip(start, work.held_out_rows(), strict=True):
        assert (len(chosen), len(rejected)) == (len(row["chosen_ids"]), len(row["rejected_ids"]))
        assert max(chosen + rejected) < 0
    assert work.training_rows("all") == work.pairs("training")[:4]
