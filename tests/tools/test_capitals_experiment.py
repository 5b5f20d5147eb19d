"""Experiment on capitals: judge and measures on hand-written cases, and a complete run at minimal size."""

import json
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("tabulate")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.experiments import __main__ as command
from benchmarks.experiments.__main__ import run
from benchmarks.experiments.capitals.experiment import EXPERIMENT
from benchmarks.experiments.capitals.measures import moved_right, trained_responses
from benchmarks.experiments.capitals.ppo_experiment import EXPERIMENT as PPO_EXPERIMENT
from benchmarks.experiments.capitals.preferences import ASR_DPO, DPO
from benchmarks.experiments.capitals.rewarded import by_punctuation, fixed_length, mask_of_segments, whole_response
from benchmarks.experiments.capitals.settings import CapitalsSettings
from benchmarks.experiments.capitals.workspace import CapitalsWorkspace
from benchmarks.experiments.framework.jobs import with_needed
from benchmarks.experiments.framework.plan import Plan
from benchmarks.experiments.framework.tables import markdown, method_tables
from benchmarks.experiments.policies.advantages import ADVANTAGES, UNCHANGED
from benchmarks.experiments.policies.credit import TrainedResponse, credit_measures
from benchmarks.experiments.policies.logprobs import divergence, response_logprobs
from benchmarks.experiments.policies.timing import timing
from benchmarks.experiments.policies.training import segment_options
from examples.capitals.pairs import Pair
from examples.capitals.task import CAPITALS, answer_text, make_tokenizer, score
from examples.common.estimates import Estimate
from examples.common.workers import quiet
from segkernel.training import ASRDPOConfig, ASRPPOConfig, ASRRFTConfig, DPOConfig, PPOConfig
from tests.quiet import restored_after_quiet

ALL_PAIRS = EXPERIMENT.main_condition
COUNTRIES = ("Peru", "*Iran", "Latvia")


def answer(right: tuple[bool, ...]) -> str:
    return answer_text(
        [CAPITALS[name.removeprefix("*")][not part] for name, part in zip(COUNTRIES, right, strict=True)]
    )


def test_pair_is_adversarial_when_most_parts_contradict_it():
    worst = Pair(COUNTRIES, chosen="Cusco; Tehran; Vilnius; ", rejected="Lima; Baghdad; Riga; ")
    assert worst.contradiction == 4 / 6
    assert worst.is_adversarial
    assert not Pair(COUNTRIES, chosen="Cusco; Tehran; Vilnius; ", rejected="Lima; Baghdad; Vilnius; ").is_adversarial
    # Truncated before the starred part.
    assert Pair(COUNTRIES, chosen="Cusco; ", rejected="Lima; Baghdad; Riga; ").is_adversarial
    assert not Pair(COUNTRIES, chosen="Lima; ", rejected="Lima; ").is_adversarial


def test_complete_answers_are_adversarial_only_with_a_starred_part():
    plain = tuple(name.removeprefix("*") for name in COUNTRIES)
    found = {COUNTRIES: 0, plain: 0}
    for chosen, rejected in product(product((True, False), repeat=3), repeat=2):
        for countries in found:
            if score(countries, chosen) > score(countries, rejected):
                found[countries] += Pair(countries, answer(chosen), answer(rejected)).is_adversarial
    assert found == {COUNTRIES: 1, plain: 0}


def test_credit_measures_literals():
    tokenizer = make_tokenizer()
    pair = Pair(("Peru", "*Iran"), chosen="Cusco; Tehran; ", rejected="Lima; Baghdad; ")
    rows = [pair.row(tokenizer)]
    whole = trained_responses(tokenizer, rows, [pair])
    assert whole == [
        TrainedResponse([True] * 5, [-1, -1, 1, 1, 1], 1),
        TrainedResponse([True] * 5, [1, 1, -1, -1, 1], -1),
    ]
    # Of 10 tokens, those of Tehran (2), the chosen answer's EOS and those of Baghdad (2) should be trained on.
    assert credit_measures(whole) == {"tokens_trained": 1.0, "mask_agreement": 0.5, "agreement_of_everything": 0.5}
    rows[0] |= {"chosen_mask": [True, False, True, True, True], "rejected_mask": [False] * 5}
    masked = credit_measures(trained_responses(tokenizer, rows, [pair]))
    # Wrong are Cusco, which was trained on, and Baghdad with its separator, which were not.
    assert masked == {"tokens_trained": 0.4, "mask_agreement": 0.7, "agreement_of_everything": 0.5}


def test_moved_right_counts_parts_up_where_right_and_down_where_wrong():
    pair = Pair(("Peru", "Iran"), chosen="Lima; Baghdad; ", rejected="Cusco; ")
    before = ([-1.0, -9.0, -1.0, -9.0, -9.0], [-1.0, -9.0, -9.0])
    assert moved_right([before], [([-0.5, -9.0, -2.0, -9.0, -9.0], [-2.0, -9.0, -9.0])], [pair]) == 1.0
    assert moved_right([before], [([-2.0, -9.0, -0.5, -9.0, -9.0], [-1.0, -9.0, -9.0])], [pair]) == 0.0


def test_fixed_segments_literals():
    tokens = ["Lima", "; ", "Tehran", "; ", "Riga"]
    assert by_punctuation(tokens) == [0, 0, 1, 1, 2]
    assert fixed_length(tokens, length=3) == [0, 0, 0, 1, 1]
    assert fixed_length(tokens, length=1) == [0, 1, 2, 3, 4]
    assert whole_response(tokens) == [0, 0, 0, 0, 0]
    rewards = [2.0, -1.0, -2.0, 0.5, 0.0]
    assert mask_of_segments([0, 0, 1, 1, 2], rewards, sign=1, baseline=0.0) == [True, True, False, False, False]
    assert mask_of_segments([0, 0, 1, 1, 2], rewards, sign=-1, baseline=0.0) == [False, False, True, True, False]


def test_jobs_are_shared_by_conditions_with_equal_sources():
    jobs = [DPO.job(1, sources) for sources in EXPERIMENT.conditions.values()]
    assert [job.sources["pairs"] for job in jobs] == ["all", "adversarial", "adversarial"]
    assert jobs[1] == jobs[2]
    assert len({ASR_DPO.job(1, sources) for sources in EXPERIMENT.conditions.values()}) == 3


def test_reward_model_trains_on_the_source_of_the_rewards():
    job = ASR_DPO.job(7, {"pairs": "adversarial", "rewards": "all"})
    assert job.need("reward").label == "reward pairs=all"
    ordered = with_needed([job])
    assert [job.step.name for job in ordered] == ["start", "pairs", "reward", "asr-dpo"]


def test_jobs_survive_pickling_for_worker_processes():
    for experiment, tuning in product((EXPERIMENT, PPO_EXPERIMENT), (False, True)):
        jobs = with_needed(Plan(experiment, tuning=tuning).jobs)
        assert pickle.loads(pickle.dumps(jobs)) == jobs


def test_controls_of_asr_ppo_have_its_options():
    """With others, a difference could come from the options."""
    options = {method.name: method.options for method in PPO_EXPERIMENT.methods}
    shared = {"kl_coef": 3.0, "advantages": "rollout mean", "learning_rate": 1e-3}
    assert options["random-ppo"] == options["ppo, options of asr-ppo"] == shared
    assert options["asr-ppo"] == {**segment_options(), **shared}


def test_every_option_of_a_candidate_exists():
    """An option that is misspelt would fail only when its job runs."""
    configs: dict = {
        "dpo": DPOConfig,
        "asr-dpo": ASRDPOConfig,
        "asr-rft": ASRRFTConfig,
        "asr-ppo": ASRPPOConfig,
        "ppo": PPOConfig,
    }
    for question in (*EXPERIMENT.questions, *PPO_EXPERIMENT.questions):
        for candidate in question.candidates:
            if candidate.method.name in configs:
                fields = configs[candidate.method.name].__dataclass_fields__
                assert candidate.method.options.keys() - {"advantages"} <= fields.keys()
                assert candidate.method.options.get("advantages", UNCHANGED) in ADVANTAGES


def test_every_question_has_the_unchanged_method_among_its_candidates():
    """An option that a method takes without naming it would give a second job for the same training."""
    lacking = {
        (question.name, question.of.name)
        for question in (*EXPERIMENT.questions, *PPO_EXPERIMENT.questions)
        if question.of.options not in [candidate.method.options for candidate in question.candidates]
    }
    # Pivots take the place of the trigger.
    assert lacking == {("pivots only", "asr-dpo")}


def test_timing_accumulates_and_restores_the_function():
    class Owner:
        @staticmethod
        def work() -> int:
            return sum(range(10000))

    original = Owner.work
    with timing((Owner, "work")) as watch:
        Owner.work()
        once = watch.seconds
        Owner.work()
    assert 0 < once < watch.seconds
    assert Owner.work is original


@pytest.mark.slow
def test_workers_exit_when_the_run_is_killed(tmp_path):
    command = [sys.executable, "-m", "benchmarks.experiments", "--quick", "--output", str(tmp_path), "--processes", "1"]
    root = Path(__file__).parents[2]
    run = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: len(descendants(run.pid)) == 3)  # a worker, its fork server, and Python's resource tracker
        workers = [Path("/proc", child) for child in descendants(run.pid)]
    finally:
        run.kill()
        run.wait()
    wait_until(lambda: not any(worker.exists() for worker in workers))


def descendants(pid):
    """Process ids of the children of a process and of their children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return children + [child for parent in children for child in descendants(parent)]


def wait_until(happened, seconds=120):
    """Generous, since the processes import torch first."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def smallest():
    """The experiment at minimal size, with one question about an option and one about the token rewards."""
    quick = CapitalsSettings().quick()
    task = replace(quick.task, prompts=3000, held_out_prompts=1000, reward_steps=2, policy_steps=2)
    settings = replace(
        quick, tuning_seeds=(1,), task=task, policy_pairs=40, policy_batch_size=8, ppo_steps=2, questions=20
    )
    questions = [q for q in EXPERIMENT.questions if q.of is ASR_DPO and q.name in ("noise", "rpo alpha")]
    conditions = {name: EXPERIMENT.conditions[name] for name in (ALL_PAIRS, "adversarial pairs")}
    smaller = replace(EXPERIMENT, settings=settings, conditions=conditions, questions=questions)
    return Plan(smaller, tuning=True)


@pytest.fixture(scope="module", autouse=True)
def restored_process():
    with restored_after_quiet():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, smallest):
    """A tuning run in this process, and its results."""
    folder = tmp_path_factory.mktemp("experiment")
    with ThreadPoolExecutor(1, initializer=quiet) as pool:
        return folder, run(smallest, folder, pool, processes=1)


@pytest.mark.slow
def test_results_have_every_measure(finished):
    _, results = finished
    assert {entry["method"] for entry in results["methods"]} == {method.name for method in EXPERIMENT.methods}
    shares = {column.measure for column in EXPERIMENT.columns if column.unit == "percent"}
    for entry in results["methods"] + results["candidates"]:
        for name, values in entry["per_seed"].items():
            assert len(values) == 1
            assert entry["mean"][name]["mean"] == pytest.approx(values[0])
            assert 0 <= values[0] <= (1 if name in shares or name.startswith("kept") else 600), name
    of = {(entry["method"], entry["condition"]): entry["per_seed"] for entry in results["methods"]}
    everything = {column.measure for column in EXPERIMENT.columns}
    # Columns that only the controls read.
    read = {"kept_chosen", "kept_rejected", "segment_length"}
    assert of["asr-dpo", ALL_PAIRS].keys() == everything | read
    assert of["ppo", ALL_PAIRS].keys() == everything - {"masked_preference_accuracy", "segments"}
    assert of["no training", ALL_PAIRS].keys() == {"parts_right", "all_right", "starred_right", "malformed"}
    assert of["dpo", ALL_PAIRS]["tokens_trained"] == [1.0]
    assert of["dpo", ALL_PAIRS]["mask_agreement"] == of["dpo", ALL_PAIRS]["agreement_of_everything"]
    # Most parts of an adversarial pair, and so most of its tokens, contradict its preference.
    assert of["dpo", "adversarial pairs"]["mask_agreement"][0] < 0.5 < of["dpo", ALL_PAIRS]["mask_agreement"][0]
    assert 0 < of["asr-dpo", ALL_PAIRS]["tokens_trained"][0] < 1
    assert 0 < of["asr-dpo", ALL_PAIRS]["segmenting"][0] < 1
    # Controls have the share of the method in the same condition.
    for control, method, condition in (
        ("random-dpo", "asr-dpo", ALL_PAIRS),
        ("random-dpo in pieces", "asr-dpo", ALL_PAIRS),
        ("random-dpo", "asr-dpo", "adversarial pairs"),
        ("random-rft", "asr-rft", ALL_PAIRS),
        ("random-ppo", "asr-ppo", ALL_PAIRS),
    ):
        share = of[method, condition]["tokens_trained"][0]
        assert of[control, condition]["tokens_trained"][0] == pytest.approx(share, abs=0.12), control
    assert of["entropy-ppo", ALL_PAIRS]["tokens_trained"][0] == pytest.approx(0.2, abs=0.1)
    assert of["slm-rft", ALL_PAIRS]["tokens_trained"][0] == pytest.approx(0.6, abs=0.1)
    assert 0 < of["sepo", ALL_PAIRS]["tokens_trained"][0] <= 0.3
    assert 0 < of["confpo", ALL_PAIRS]["tokens_trained"][0] < 1
    assert 0 < of["dpo", ALL_PAIRS]["kl"][0] < 5
    assert 0 < of["dpo", ALL_PAIRS]["length"][0] <= 9
    shown = [(point["question"], point["label"]) for point in results["candidates"] if point["condition"] == ALL_PAIRS]
    assert shown == [("rpo alpha", "0"), ("rpo alpha", "1"), ("noise", "0"), ("noise", "4")]


@pytest.mark.slow
def test_pairs_are_ranked_by_the_judge(finished, smallest):
    work = CapitalsWorkspace(smallest.experiment.settings, finished[0], 1)
    pairs, adversarial = work.pairs("all"), work.pairs("adversarial")
    assert len(pairs) > len(adversarial) > 0
    for pair in pairs:
        assert score(pair.countries, pair.right("chosen")) > score(pair.countries, pair.right("rejected"))
        assert (pair in adversarial) == (pair.contradiction > 0.5)


@pytest.mark.slow
def test_repeated_job_has_the_same_result(finished, smallest):
    folder, results = finished
    killed = ASR_DPO.job(1, EXPERIMENT.conditions[ALL_PAIRS])
    # Killed after its model was saved, before its result was.
    (folder / "seed-1" / "results" / f"{killed.name}.json").unlink()
    with ThreadPoolExecutor(1, initializer=quiet) as pool:
        again = run(smallest, folder, pool, processes=1)
    timed = ("seconds", "segmenting")
    for before, after in zip(results["methods"], again["methods"], strict=True):
        assert {k: v for k, v in before["per_seed"].items() if k not in timed} == {
            k: v for k, v in after["per_seed"].items() if k not in timed
        }


def test_page_shows_the_stored_results():
    results = json.loads((command.RESULTS / "capitals.json").read_text())
    page = command.PAGE.read_text(encoding="utf-8")
    assert [table for table in method_tables(results).values() if markdown(table) not in page] == []
    for entry in results["methods"]:
        shown = Estimate(**entry["mean"]["parts_right"]).percent()
        assert any(line.startswith(f"| {entry['method']} ") and shown in line for line in page.splitlines())


def test_response_logprobs_match_one_response_at_a_time():
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=11, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    )
    prompts, responses = [[1, 2, 3], [4]], [[5, 6], [7, 8, 9]]
    found = response_logprobs(model, prompts, responses)
    for prompt, response, logprobs in zip(prompts, responses, found, strict=True):
        whole = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
        expected = [whole[len(prompt) + i - 1, token].item() for i, token in enumerate(response)]
        assert logprobs == pytest.approx(expected, abs=1e-5)
    one_by_one = response_logprobs(model, prompts, responses, batch_size=1)
    assert [sum(row) for row in one_by_one] == pytest.approx([sum(row) for row in found], abs=1e-5)


def test_divergence_is_the_mean_over_responses_of_the_sum_over_tokens():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.5,
    )
    policy, start = LlamaForCausalLM(config), LlamaForCausalLM(config)
    prompts, responses = [[1, 2, 3], [4]], [[5, 6], [7, 8, 9]]
    expected = 0.0
    for prompt, response in zip(prompts, responses, strict=True):
        new, old = (model(torch.tensor([prompt + response])).logits[0].softmax(-1) for model in (policy, start))
        for place in range(len(prompt) - 1, len(prompt) + len(response) - 1):
            expected += (new[place] * (new[place] / old[place]).log()).sum().item() / 2
    assert divergence(policy, start, prompts, responses) == pytest.approx(expected, rel=1e-5)
    assert divergence(policy, policy, prompts, responses) == 0.0
