"""Controlled experiment: judge, measures and statistics on hand-written cases, and a complete run at minimal size."""

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
from benchmarks.experiments.credit import TrainedResponse, moved_right, responses_of_pairs
from benchmarks.experiments.measure import credit
from benchmarks.experiments.methods import ASR_DPO, DPO
from benchmarks.experiments.output import write_page, write_results
from benchmarks.experiments.registry import METHODS, STEPS
from benchmarks.experiments.settings import Settings
from benchmarks.experiments.steps import needed_by, task_of, with_needed
from benchmarks.experiments.summary import all_tasks
from benchmarks.experiments.tables import method_table, sweep_table
from benchmarks.experiments.tasks import ALL_PAIRS, CONDITIONS, Task
from benchmarks.experiments.timing import timing
from benchmarks.experiments.workspace import Workspace
from examples.capitals.pairs import Pair
from examples.capitals.task import CAPITALS, answer_text, make_tokenizer, score

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


def test_mask_agreement_literals():
    tokenizer = make_tokenizer()
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


def test_moved_right_counts_parts_up_where_right_and_down_where_wrong():
    pair = Pair(("Peru", "Iran"), chosen="Lima; Baghdad", rejected="Cusco")
    assert moved_right([[-1.0, -1.0, -1.0]], [[-0.5, -2.0, -2.0]], [pair]) == 1.0
    assert moved_right([[-1.0, -1.0, -1.0]], [[-2.0, -0.5, -1.0]], [pair]) == 0.0


def test_fixed_segments_literals():
    tokens = ["Lima", "; ", "Tehran", "; ", "Riga"]
    assert ablations.by_punctuation(tokens) == [0, 0, 1, 1, 2]
    assert ablations.fixed_length(tokens, length=3) == [0, 0, 0, 1, 1]
    assert ablations.fixed_length(tokens, length=1) == [0, 1, 2, 3, 4]
    assert ablations.whole_response(tokens) == [0, 0, 0, 0, 0]
    rewards = [2.0, -1.0, -2.0, 0.5, 0.0]
    assert ablations.mask_of_segments([0, 0, 1, 1, 2], rewards, sign=1) == [True, True, False, False, False]
    assert ablations.mask_of_segments([0, 0, 1, 1, 2], rewards, sign=-1) == [False, False, True, True, False]


def test_tasks_are_shared_by_conditions_with_equal_sources():
    tasks = [task_of(DPO, 1, sources) for sources in CONDITIONS.values()]
    assert [task.pairs for task in tasks] == ["all", "adversarial", "adversarial"]
    assert tasks[1] == tasks[2]
    assert len({task_of(ASR_DPO, 1, sources) for sources in CONDITIONS.values()}) == 3


def test_reward_model_trains_on_the_source_of_the_rewards():
    task = task_of(ASR_DPO, 7, {"pairs": "adversarial", "rewards": "all"})
    assert Task(7, "reward", pairs="all") in needed_by(task, STEPS)
    ordered = with_needed([task], STEPS)
    assert ordered[-1] == task
    assert [task.step for task in ordered].index("start") == 0


def test_settings_folder_depends_on_all_settings_but_seeds(tmp_path):
    settings = Settings()
    assert settings.folder(tmp_path) == Settings().folder(tmp_path)
    assert settings.folder(tmp_path) != settings.quick().folder(tmp_path)
    assert settings.folder(tmp_path) == replace(settings, seeds=(9,)).folder(tmp_path)


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


def test_results_have_every_measure(finished, smallest):
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


def test_pairs_are_ranked_by_the_judge(finished, smallest):
    work = Workspace(finished[0], smallest, 1)
    pairs, adversarial = work.pairs("all"), work.pairs("adversarial")
    assert len(pairs) > len(adversarial) > 5
    for pair in pairs:
        assert score(pair.countries, pair.right("chosen")) > score(pair.countries, pair.right("rejected"))
        assert (pair in adversarial) == (pair.contradiction > 0.5)


def test_results_are_written_as_files_and_table(finished, tmp_path):
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
    page = tmp_path / "experiments.md"
    page.write_text("before\n<!-- experiment:begin -->\nold\n<!-- experiment:end -->\nafter\n")
    write_page(results, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    for row in method_table(results["methods"]).to_dict("records"):
        assert f"| {row['method']} " in text
        assert row[ALL_PAIRS] in text
    page.write_text("no markers\n")
    with pytest.raises(ValueError, match="expected the markers <!-- experiment:begin -->"):
        write_page(results, page)
    assert page.read_text() == "no markers\n"


def entry(method: str, baseline: str, condition: str, mean: float, gain: float, **others: object) -> dict:
    return {
        "method": method,
        "baseline": baseline,
        "condition": condition,
        "mean": {"parts_right": {"mean": mean, "half_width": 0.01}, "tokens_trained": {"mean": 0.5, "half_width": 0.0}},
        "against_baseline": {"parts_right": {"mean": gain, "half_width": 0.05}},
        **others,
    }


def test_method_table_literals():
    entries = [
        entry("no training", "no training", "all pairs", 0.5, 0.0),
        entry("dpo", "no training", "all pairs", 0.8, 0.3),
        entry("dpo", "no training", "adversarial pairs", 0.1, -0.4),
        entry("rft", "no training", "all pairs", 0.52, 0.02),
    ]
    rows = method_table(entries).to_dict("records")
    expected = [
        ("no training", "", "50.0 ± 1.0", ""),
        ("dpo", "no training", "80.0 ± 1.0 ↑", "10.0 ± 1.0 ↓"),
        ("rft", "no training", "52.0 ± 1.0", ""),
    ]
    assert [(r["method"], r["baseline"], r["all pairs"], r["adversarial pairs"]) for r in rows] == expected
    assert rows[0]["tokens trained on"] == "50.0 ± 0.0"
    assert rows[0]["time for segments"] == ""  # not measured


def test_sweep_table_marks_variants_only():
    entries = [
        entry("asr-dpo", "dpo", "all pairs", 0.8, 0.3, sweep="noise", label="0"),
        entry("asr-dpo, noise: 1", "asr-dpo", "all pairs", 0.6, -0.2, sweep="noise", label="1"),
    ]
    rows = sweep_table(entries).to_dict("records")
    assert [(r["sweep"], r["asr-dpo with"], r["all pairs"]) for r in rows] == [
        ("noise", "0", "80.0 ± 1.0"),
        ("noise", "1", "60.0 ± 1.0 ↓"),
    ]


def test_killed_run_resumes_with_unfinished_tasks(finished, smallest):
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
