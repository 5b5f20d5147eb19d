"""The controlled experiment: its judge, measures and statistics by hand, and the whole of it at its smallest."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("tabulate")

from benchmarks.experiments import ablations
from benchmarks.experiments.__main__ import run
from benchmarks.experiments.measure import accuracies, credit, timing
from benchmarks.experiments.methods import ASR_DPO, DPO
from benchmarks.experiments.output import write_readme, write_results
from benchmarks.experiments.registry import METHODS, STEPS
from benchmarks.experiments.settings import Settings
from benchmarks.experiments.summary import Estimate, all_tasks, difference, estimate
from benchmarks.experiments.tables import method_rows
from benchmarks.experiments.tasks import ALL_PAIRS, CONDITIONS, Task, needed_by, task_of, with_needed
from benchmarks.experiments.workspace import Workspace, is_adversarial
from examples.capitals.measure import TrainedResponse, responses_of_pairs
from examples.capitals.pairs import Pair
from examples.capitals.task import CAPITALS, answer_text, make_tokenizer, score

COUNTRIES = ("Peru", "*Iran", "Latvia")


def answer(right: tuple[bool, ...]) -> str:
    return answer_text(
        [CAPITALS[name.removeprefix("*")][not part] for name, part in zip(COUNTRIES, right, strict=True)]
    )


def test_a_pair_is_adversarial_when_most_of_its_parts_contradict_it():
    worst = Pair(COUNTRIES, chosen="Cusco; Tehran; Vilnius; ", rejected="Lima; Baghdad; Riga; ")
    assert worst.contradiction == 4 / 6
    assert is_adversarial(worst)
    assert not is_adversarial(Pair(COUNTRIES, chosen="Cusco; Tehran; Vilnius; ", rejected="Lima; Baghdad; Vilnius; "))
    # Cut off before the starred part, by a token limit of its own.
    assert is_adversarial(Pair(COUNTRIES, chosen="Cusco; ", rejected="Lima; Baghdad; Riga; "))
    assert not is_adversarial(Pair(COUNTRIES, chosen="Lima; ", rejected="Lima; "))


def test_only_a_judge_who_weighs_parts_makes_whole_answers_adversarial():
    plain = tuple(name.removeprefix("*") for name in COUNTRIES)
    found = {COUNTRIES: 0, plain: 0}
    for chosen, rejected in product(product((True, False), repeat=3), repeat=2):
        for countries in found:
            if score(countries, chosen) > score(countries, rejected):
                found[countries] += is_adversarial(Pair(countries, answer(chosen), answer(rejected)))
    assert found == {COUNTRIES: 1, plain: 0}


def test_a_mask_agrees_where_it_keeps_what_has_its_verdicts_sign():
    tokenizer = make_tokenizer(key=True)
    pair = Pair(("Peru", "*Iran"), chosen="Cusco; Tehran; ", rejected="Lima; Baghdad")
    rows = [pair.row(tokenizer)]
    whole = responses_of_pairs(tokenizer, rows, [pair])
    assert whole == [
        TrainedResponse([True] * 4, [-1, -1, 1, 1], 1),
        TrainedResponse([True] * 3, [1, 1, -1], -1),
    ]
    # Of 7 tokens, those of Tehran (2) and Baghdad (1) should be trained on.
    assert credit(whole) == {"tokens_trained": 1.0, "mask_agreement": 3 / 7, "agreement_of_everything": 3 / 7}
    rows[0] |= {"chosen_mask": [True, False, True, True], "rejected_mask": [False, False, False]}
    masked = credit(responses_of_pairs(tokenizer, rows, [pair]))
    # Wrong are Cusco, which was trained on, and Baghdad, which was not.
    assert masked == {"tokens_trained": 3 / 7, "mask_agreement": 5 / 7, "agreement_of_everything": 3 / 7}


def test_a_malformed_answer_has_no_right_part():
    questions = [("*Peru", "Iran"), ("Peru", "*Iran"), ("*Peru", "Iran"), ("Peru", "*Iran")]
    answers = [(True, True), (True, False), None, (False, True)]
    expected = {"parts_right": 4 / 8, "all_right": 1 / 4, "key_right": 2 / 4, "malformed": 1 / 4}
    assert accuracies(questions, answers) == expected


def test_intervals_by_hand():
    # t with 4 degrees of freedom at 97.5 %: 2.7764; standard deviation of 1..5: sqrt(2.5) = 1.5811.
    center, half_width = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert center == 3.0
    assert half_width == pytest.approx(2.7764 * 1.5811 / 5**0.5, abs=1e-3)
    assert estimate([0.25]) == Estimate(0.25, None)
    # The seeds differ by far more than the method and its baseline do.
    paired = difference([0.25, 0.5, 0.75], [0.125, 0.375, 0.5])
    assert paired.mean == pytest.approx(0.16667, abs=1e-5)
    # 4.3027 * 0.072169 / sqrt(3)
    assert paired.half_width == pytest.approx(0.17928, abs=1e-4)
    assert paired.sign == 0
    assert difference([0.5, 0.625, 0.75], [0.25, 0.375, 0.5]).sign == 1
    assert difference([0.25, 0.375, 0.5], [0.5, 0.625, 0.75]).sign == -1
    assert estimate([0.25]).sign == 0


def test_segments_that_know_nothing_of_rewards():
    tokens = ["Lima", "; ", "Tehran", "; ", "Riga"]
    assert ablations.by_punctuation(tokens) == [0, 0, 1, 1, 2]
    assert ablations.of_length(tokens, length=3) == [0, 0, 0, 1, 1]
    assert ablations.of_length(tokens, length=1) == [0, 1, 2, 3, 4]
    assert ablations.whole(tokens) == [0, 0, 0, 0, 0]
    rewards = [2.0, -1.0, -2.0, 0.5, 0.0]
    assert ablations.mask_of_segments([0, 0, 1, 1, 2], rewards, sign=1) == [True, True, False, False, False]
    assert ablations.mask_of_segments([0, 0, 1, 1, 2], rewards, sign=-1) == [False, False, True, True, False]


def test_a_run_is_shared_by_the_conditions_that_agree_on_what_it_uses():
    tasks = [task_of(DPO, 1, sources) for sources in CONDITIONS.values()]
    assert [task.pairs for task in tasks] == ["all", "adversarial", "adversarial"]
    assert tasks[1] == tasks[2]
    assert len({task_of(ASR_DPO, 1, sources) for sources in CONDITIONS.values()}) == 3


def test_a_reward_model_is_of_the_pairs_that_the_rewards_come_from():
    task = task_of(ASR_DPO, 7, {"pairs": "adversarial", "rewards": "all"})
    assert Task(7, "reward", pairs="all") in needed_by(task, STEPS)
    ordered = with_needed([task], STEPS)
    assert ordered[-1] == task
    assert [task.step for task in ordered].index("start") == 0


def test_other_settings_work_in_another_folder(tmp_path):
    settings = Settings()
    assert settings.folder(tmp_path) == Settings().folder(tmp_path)
    assert settings.folder(tmp_path) != settings.quick().folder(tmp_path)
    assert settings.folder(tmp_path) == replace(settings, seeds=(9,)).folder(tmp_path)


def test_a_stopwatch_stops_and_leaves_no_trace():
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


def test_no_worker_outlives_a_killed_run(tmp_path):
    command = [sys.executable, "-m", "benchmarks.experiments", "--quick", "--output", str(tmp_path), "--processes", "1"]
    root = Path(__file__).parents[2]
    run = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    try:
        wait_until(lambda: len(children.read_text().split()) == 2)  # a worker, and Python's own resource tracker
        workers = [Path("/proc", child) for child in children.read_text().split()]
    finally:
        run.kill()
        run.wait()
    wait_until(lambda: not any(worker.exists() for worker in workers))


def wait_until(happened, seconds=120):
    """Generous, since the processes import torch first."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def smallest():
    quick = Settings().quick()
    task = replace(quick.task, prompts=400, held_out_prompts=200, reward_steps=2, policy_steps=2)
    return replace(quick, seeds=(1,), task=task, policy_pairs=40, policy_batch_size=8, ppo_steps=2, questions=20)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, smallest):
    """A run, with two variants of one sweep, and its results."""
    with pytest.MonkeyPatch.context() as patch:
        sweep = [step for step in ablations.ABLATIONS if step.name.startswith("asr-dpo, noise")]
        patch.setattr(ablations, "ABLATIONS", [sweep[0], sweep[-1]])
        folder = tmp_path_factory.mktemp("experiment")
        yield folder, run(smallest, folder, processes=2)


def test_the_smallest_run_has_every_number(finished, smallest):
    _, results = finished
    assert {entry["method"] for entry in results["methods"]} == {method.name for method in METHODS}
    for entry in results["methods"] + results["sweeps"]:
        for name, values in entry["per_seed"].items():
            assert len(values) == len(smallest.seeds)
            assert entry["mean"][name]["mean"] == pytest.approx(sum(values) / len(values))
            assert 0 <= values[0] <= (1 if name != "seconds" else 600)
        baseline = next(
            e["per_seed"]
            for e in results["methods"]
            if e["method"] == entry["baseline"] and e["condition"] in (entry["condition"], ALL_PAIRS)
        )
        if entry["condition"] == ALL_PAIRS:
            expected = entry["per_seed"]["parts_right"][0] - baseline["parts_right"][0]
            assert entry["against_baseline"]["parts_right"]["mean"] == pytest.approx(expected)
    of = {(entry["method"], entry["condition"]): entry["per_seed"] for entry in results["methods"]}
    assert of["dpo", ALL_PAIRS]["tokens_trained"] == [1.0]
    assert of["dpo", ALL_PAIRS]["mask_agreement"] == of["dpo", ALL_PAIRS]["agreement_of_everything"]
    # Most parts of an adversarial pair, and so most of its tokens, contradict its preference.
    assert of["dpo", "adversarial pairs"]["mask_agreement"][0] < 0.5 < of["dpo", ALL_PAIRS]["mask_agreement"][0]
    assert 0 < of["asr-dpo", ALL_PAIRS]["tokens_trained"][0] < 1
    assert 0 < of["asr-dpo", ALL_PAIRS]["segmenting"][0] < 1
    assert not {"tokens_trained", "moved_right"} & set(of["no training", ALL_PAIRS])
    assert [point["label"] for point in results["sweeps"] if point["condition"] == ALL_PAIRS] == ["0", "0.5", "4"]


def test_the_pairs_of_the_run_are_what_the_judge_says(finished, smallest):
    work = Workspace(finished[0], smallest, 1)
    pairs, adversarial = work.pairs("all"), work.pairs("adversarial")
    assert len(pairs) > len(adversarial) > 5
    for pair in pairs:
        assert score(pair.countries, pair.right("chosen")) > score(pair.countries, pair.right("rejected"))
        assert (pair in adversarial) == (pair.contradiction > 0.5)


def test_results_become_files_and_a_table(finished, tmp_path):
    _, results = finished
    report = write_results(results, tmp_path / "experiment.json", tmp_path / "plots")
    assert json.loads((tmp_path / "experiment.json").read_text())["methods"] == json.loads(
        json.dumps(results["methods"])
    )
    names = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert names == ["methods.png", "noise.png", "report.html"]
    html = report.read_text()
    runs = {(entry["method"], entry["condition"]) for entry in results["methods"] + results["sweeps"]}
    assert html.count('<th scope="row">') == len(runs)
    assert html.count("data:image/png;base64,") == 2
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- experiment:begin -->\nold\n<!-- experiment:end -->\nafter\n")
    write_readme(results, readme)
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    for row in method_rows(results["methods"]):
        assert f"| {row['method']} " in text
        assert row[ALL_PAIRS] in text


def test_a_killed_run_goes_on_where_it_was(finished, smallest):
    folder, results = finished
    work = Workspace(folder, smallest, 1)
    stored = {path: path.stat().st_mtime_ns for path in work.folder.glob("results/*.json")}
    assert {path.stem for path in stored} == {task.name for task in with_needed(all_tasks(smallest), STEPS)}
    killed = task_of(DPO, 1, CONDITIONS[ALL_PAIRS])
    # Killed after its model was saved, before its result was.
    (work.folder / "results" / f"{killed.name}.json").unlink()
    again = run(smallest, folder, processes=1)
    remade = {path.stem for path, when in stored.items() if path.stat().st_mtime_ns != when}
    assert remade == {killed.name}
    timed = ("seconds", "segmenting")
    for before, after in zip(results["methods"], again["methods"], strict=True):
        assert {k: v for k, v in before["per_seed"].items() if k not in timed} == {
            k: v for k, v in after["per_seed"].items() if k not in timed
        }
    # Nothing is left to run: only the tables are made anew.
    assert run(smallest, folder, processes=1)["methods"] == again["methods"]
