"""Framework of the experiments on a stub task without models: jobs, resumption, estimates, tables, pages."""

import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("tabulate")

import torch

from benchmarks.experiments import __main__ as command
from benchmarks.experiments.framework import schedule
from benchmarks.experiments.framework.columns import Column
from benchmarks.experiments.framework.experiment import Candidate, Experiment, Method, Question
from benchmarks.experiments.framework.hardware import environment
from benchmarks.experiments.framework.jobs import Job, Need, Step, with_needed
from benchmarks.experiments.framework.output import write_results
from benchmarks.experiments.framework.page import markers, page_text, pictures_of, ran_on, write_page
from benchmarks.experiments.framework.plan import Plan
from benchmarks.experiments.framework.settings import Settings
from benchmarks.experiments.framework.tables import candidate_tables, detailed_table, method_tables, stage_table
from benchmarks.experiments.framework.workspace import Workspace
from benchmarks.experiments.registry import MODULES

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class StubSettings(Settings):
    step: float = 0.25

    def quick(self):
        return replace(super().quick(), step=0.5)


class StubWorkspace(Workspace[StubSettings]):
    """Counts how often every job ran."""

    def ran(self, job):
        path = self.folder / "ran"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            print(job.step.name, file=file)


def data(work, job):
    work.ran(job)
    return {"rows": 10 + work.seed}


def start(work, job):
    work.ran(job)
    return {"right": 0.25}


def method(work, job):
    """Right by the source, one step more with `masked`, and a little by the seed."""
    work.ran(job)
    gain = work.settings.step * job.step.options["masked"]
    return {"right": (0.5 if job.sources["pairs"] == "all" else 0.0) + gain + work.seed / 64, "kept": 1 - gain}


def control(work, job):
    """Reads the share of tokens that the method under test kept."""
    work.ran(job)
    kept = work.finished(job.need("masked"))["kept"]
    return {"right": 0.25, "kept": kept, "lints": None}


DATA = Step("data", data)
START = Method("start", start, needs=(Need(DATA),), decides=True)
PLAIN = Method("plain", method, ("pairs",), (Need(DATA),), {"masked": 0}, baseline=START, decides=True)
MASKED = Method("masked", method, ("pairs",), (Need(DATA),), {"masked": 1}, baseline=PLAIN, decides=True)
CONTROL = Method("control", control, ("pairs",), (Need(MASKED),), baseline=PLAIN)
STRENGTH = Question(
    "strength",
    MASKED,
    [Candidate(f"{value:g}", MASKED.with_options(masked=value)) for value in (0.5, 1, 2)],
    unit="in steps",
)
STUB = Experiment(
    name="stub",
    title="A stub",
    settings=StubSettings(seeds=(0, 1), tuning_seeds=(4, 5)),
    workspace=StubWorkspace,
    conditions={"all pairs": {"pairs": "all"}, "bad pairs": {"pairs": "bad"}},
    methods=[START, PLAIN, MASKED, CONTROL],
    questions=[STRENGTH],
    columns=[
        Column("right", "right"),
        Column("kept", "kept", "number", digits=2, compact=True),
        Column("lints", "lints", "number"),
    ],
    stage_columns=[Column("rows", "rows", "number", digits=0)],
    legend="Right is right.",
)


def run(plan, folder):
    with ThreadPoolExecutor(1) as pool:
        return command.run(plan, folder, pool, processes=1)


def ran(folder, seed):
    return (folder / f"seed-{seed}" / "ran").read_text().split()


def entries(results, kind="methods"):
    return {(e["method"] if kind == "methods" else e["label"], e["condition"]): e for e in results[kind]}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stub")
    return folder, run(Plan(STUB, tuning=True), folder)


def test_job_name_covers_its_options_and_those_of_its_needs():
    all_pairs = {"pairs": "all", "rewards": "unused"}
    job = MASKED.job(1, all_pairs)
    assert job.label == "masked pairs=all"
    assert job == MASKED.with_options(masked=1).job(1, all_pairs)
    assert job.name != MASKED.with_options(masked=2).job(1, all_pairs).name
    assert job != MASKED.job(2, all_pairs)
    stronger = replace(CONTROL, needs=(Need(MASKED.with_options(masked=2)),))
    assert CONTROL.job(1, all_pairs).name != stronger.job(1, all_pairs).name
    assert CONTROL.job(1, all_pairs).name == CONTROL.job(2, all_pairs).name


def test_needed_jobs_come_first_and_once():
    jobs = with_needed([CONTROL.job(1, {"pairs": "all"}), PLAIN.job(1, {"pairs": "all"})])
    assert [job.step.name for job in jobs] == ["data", "masked", "control", "plain"]


def test_need_renames_sources():
    reward = Step("reward", data, uses=("pairs",))
    step = Step("method", data, ("pairs", "rewards"), (Need(reward, {"pairs": "rewards"}), Need(PLAIN)))
    job = step.job(1, {"pairs": "bad", "rewards": "all"})
    assert [need.sources for need in job.needs] == [{"pairs": "all"}, {"pairs": "bad"}]
    assert job.need("reward") == Job(1, reward, {"pairs": "all"})


def test_settings_folder_depends_on_all_settings_but_the_seeds(tmp_path):
    settings = StubSettings()
    assert settings.folder(tmp_path) == replace(settings, seeds=(9,), tuning_seeds=(7,)).folder(tmp_path)
    assert settings.folder(tmp_path) != replace(settings, step=0.125).folder(tmp_path)
    quick = settings.quick()
    assert (quick.seeds, quick.tuning_seeds, quick.step) == ((0, 1), (100, 101), 0.5)
    assert settings.folder(tmp_path) != quick.folder(tmp_path)


def test_experiment_refuses_two_functions_of_one_name():
    with pytest.raises(ValueError, match="steps: expected one function for the name 'masked', got two"):
        replace(STUB, methods=[*STUB.methods, replace(MASKED, run=control)])


def test_tuning_run_has_hand_computed_results(tuned):
    _, results = tuned
    assert results["seeds"] == [4, 5]
    methods = entries(results)
    # The start model uses no source, so it does not run in the second condition.
    assert list(methods) == [
        ("start", "all pairs"),
        *((name, condition) for name in ("plain", "masked", "control") for condition in ("all pairs", "bad pairs")),
    ]
    masked = methods["masked", "bad pairs"]
    assert masked["per_seed"] == {"right": [0.3125, 0.328125], "kept": [0.75, 0.75]}
    assert masked["mean"]["right"]["mean"] == 0.3203125
    # Two seeds: the 97.5 % quantile of the t-distribution with one degree of freedom is 12.706.
    assert masked["mean"]["right"]["half_width"] == pytest.approx(12.7062 * 0.015625 / 2, rel=1e-4)
    assert masked["against_baseline"]["right"] == {"mean": 0.25, "half_width": 0.0}
    assert masked["options"] == {"masked": 1}
    assert methods["start", "all pairs"]["against_baseline"] == {}
    # The control reads what the masked method kept in the same condition and seed; a measure of `None` is left out.
    assert methods["control", "bad pairs"]["per_seed"] == {"right": [0.25, 0.25], "kept": [0.75, 0.75]}
    candidates = entries(results, "candidates")
    assert candidates["2", "all pairs"]["against_unchanged"]["right"] == {"mean": 0.25, "half_width": 0.0}
    assert candidates["2", "all pairs"]["against_baseline"]["right"] == {"mean": 0.5, "half_width": 0.0}
    assert candidates["1", "all pairs"]["against_unchanged"] == {}
    assert results["stages"] == [{"stage": "data", "per_seed": {"rows": [14, 15]}}]


def test_unchanged_candidate_costs_no_run(tuned):
    folder, _ = tuned
    # In two conditions: the method itself and its two changed candidates.
    assert ran(folder, 4).count("masked") == 6
    assert ran(folder, 4).count("data") == 1


def test_confirming_run_has_other_seeds_and_no_candidates(tuned):
    folder, _ = tuned
    before = ran(folder, 4)
    results = run(Plan(STUB), folder)
    assert (results["seeds"], results["candidates"]) == ([0, 1], [])
    assert ran(folder, 4) == before


def test_killed_run_resumes_with_unfinished_jobs(tmp_path):
    plan = Plan(STUB)
    results = run(plan, tmp_path)
    killed = PLAIN.job(1, {"pairs": "all"})
    work = StubWorkspace(STUB.settings, tmp_path, 1)
    (work.folder / "results" / f"{killed.name}.json").unlink()
    before = ran(tmp_path, 1)
    leftover = work.job_folder(killed) / "checkpoint"
    leftover.mkdir(parents=True)
    assert run(plan, tmp_path)["methods"] == results["methods"]
    assert ran(tmp_path, 1) == [*before, "plain"]
    assert not leftover.exists()


@pytest.mark.parametrize("lacking", [0, 1])
def test_measure_that_a_seed_lacks_leaves_the_cell_empty(tmp_path, lacking):
    """Results of an earlier version lack the measures that were added later."""
    run(Plan(STUB), tmp_path)
    for method, seeds in ((PLAIN, {1 - lacking}), (MASKED, {0, 1})):
        for seed in seeds:
            work, job = StubWorkspace(STUB.settings, tmp_path, seed), method.job(seed, {"pairs": "all"})
            work.store(job, {**work.finished(job), "lints": 2.0})
    results = run(Plan(STUB), tmp_path)
    masked = entries(results)["masked", "all pairs"]
    assert masked["per_seed"]["lints"] == [2.0, 2.0]
    assert "lints" not in masked["against_baseline"]
    rows = detailed_table(results).to_dict("records")
    shown = {row["method"]: row["lints"] for row in rows if row["trained on"] == "all pairs"}
    assert shown == {"start": "", "plain": "", "masked": "2.0 ± 0.0", "control": ""}


def test_failed_job_is_named_and_finished_ones_are_kept(tmp_path):
    def fail(work, job):
        raise ZeroDivisionError

    broken = Method("broken", fail, ("pairs",), (Need(PLAIN),), baseline=PLAIN)
    plan = Plan(replace(STUB, methods=[START, PLAIN, broken], questions=[]))
    with pytest.raises(RuntimeError, match=r"seed 0, broken pairs=all [0-9a-f]{8}: failed"):
        run(plan, tmp_path)
    (record,) = schedule.runs(plan, tmp_path)
    assert record["wall_seconds"] > 0
    finished = ran(tmp_path, 0)
    assert "plain" in finished
    with pytest.raises(RuntimeError, match="broken"):
        run(plan, tmp_path)
    assert ran(tmp_path, 0)[: len(finished)] == finished
    assert finished.count("plain") == ran(tmp_path, 0).count("plain")


def test_killed_worker_is_one_line(tmp_path, monkeypatch, capsys):
    def killed(work, job):
        raise BrokenProcessPool("A process in the process pool was terminated abruptly")

    broken = Method("broken", killed, ("pairs",), (Need(PLAIN),), baseline=PLAIN)
    experiment = replace(STUB, methods=[START, PLAIN, broken], questions=[])
    monkeypatch.setattr(command, "load_experiment", lambda task: experiment)
    monkeypatch.setattr(command, "pool_of", lambda experiment, processes: ThreadPoolExecutor(1))
    assert command.main(["--output", str(tmp_path)]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "a worker process was killed, perhaps for lack of memory" in line
    assert line.endswith("the same command resumes after the last finished job")
    assert "plain" in ran(next((tmp_path / experiment.name).iterdir()), 0)


def test_deciding_part_leaves_out_the_other_methods(tmp_path):
    results = run(Plan(STUB, deciding=True), tmp_path)
    assert {e["method"] for e in results["methods"]} == {"start", "plain", "masked"}
    # A method that an earlier run finished stays in the tables.
    run(Plan(STUB), tmp_path)
    assert "control" in {e["method"] for e in run(Plan(STUB, deciding=True), tmp_path)["methods"]}


def test_one_method_runs_with_what_it_needs_and_keeps_the_others_in_the_tables(tmp_path):
    run(Plan(STUB, only=("plain",)), tmp_path)
    assert set(ran(tmp_path, 0)) == {"data", "plain"}
    results = run(Plan(STUB, only=("start",)), tmp_path)
    assert set(ran(tmp_path, 0)) == {"data", "plain", "start"}
    assert {entry["method"] for entry in results["methods"]} == {"start", "plain"}


def test_asked_questions_run_with_their_methods_only_and_add_up(tmp_path):
    pace = Question("pace", PLAIN, [Candidate("3", PLAIN.with_options(masked=3))])
    experiment = replace(STUB, questions=[STRENGTH, pace])
    results = run(Plan(experiment, tuning=True, asked=("pace",)), tmp_path)
    assert set(ran(tmp_path, 4)) == {"data", "start", "plain"}
    assert {entry["method"] for entry in results["methods"]} == {"start", "plain"}
    assert [e["against_unchanged"]["right"]["mean"] for e in results["candidates"]] == [0.75, 0.75]
    # The second piece: the tables have the first one as well, in the order of the experiment.
    results = run(Plan(experiment, tuning=True, asked=("strength",)), tmp_path)
    assert ran(tmp_path, 4).count("control") == 0
    assert list(dict.fromkeys(entry["question"] for entry in results["candidates"])) == ["strength", "pace"]
    before = ran(tmp_path, 4)
    complete = run(Plan(experiment, tuning=True), tmp_path)
    assert ran(tmp_path, 4) == [*before, "control", "control"]
    assert complete["candidates"] == results["candidates"]


def test_unfinished_questions_and_stages_are_left_out_of_collected_results(tmp_path):
    pace = Question("pace", PLAIN, [Candidate("3", PLAIN.with_options(masked=3))])
    experiment = replace(STUB, questions=[STRENGTH, pace])
    plan = Plan(experiment, tuning=True)
    run(plan, tmp_path)
    candidate = pace.candidates[0].method.job(5, {"pairs": "all"})
    for job in (candidate, DATA.job(5)):
        (tmp_path / "seed-5" / "results" / f"{job.name}.json").unlink()
    results = command.collect(plan, tmp_path)
    assert {entry["question"] for entry in results["candidates"]} == {"strength"}
    assert results["stages"] == []
    assert {entry["method"] for entry in results["methods"]} == {"start", "plain", "masked", "control"}


def test_results_name_every_machine_that_made_them(tmp_path, monkeypatch):
    def on(cpu: str) -> None:
        machine = {"cpu": cpu, "cores": "2", "python": "3.12", "torch": "2.11"}
        monkeypatch.setattr(schedule, "environment", lambda experiment: {"machine": machine, "packages": []})

    def forget(folder: Path, seed: int) -> None:
        next((folder / f"seed-{seed}" / "results").glob("control*")).unlink()

    there, here, plan = tmp_path / "there", tmp_path / "here", Plan(STUB)
    on("first")
    first = run(plan, there)
    forget(there, 0)
    run(plan, there)
    shutil.copytree(there, here)
    on("second")
    # Nothing runs on the second machine, so the results are those of the first one only.
    again = run(plan, here)
    assert (ran(here, 0), again["methods"]) == (ran(there, 0), first["methods"])
    assert [entry["machine"]["cpu"] for entry in again["runs"]] == ["first"]
    assert again["runs"][0]["wall_seconds"] > first["runs"][0]["wall_seconds"]
    forget(here, 1)
    text = ran_on(run(plan, here))
    assert re.match(r"first, 2 cores; Python 3.12, torch 2.11; \d+ seconds in 1 process\. second, 2 cores; ", text)


def test_gpu_is_recorded_where_an_experiment_uses_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    assert environment(replace(STUB, uses_gpu=True))["machine"]["gpu"] == "H200"
    assert "gpu" not in environment(STUB)["machine"]


def test_quick_plan_has_first_and_last_candidates():
    quick = replace(STUB, settings=STUB.settings.quick())
    (question,) = Plan(quick, tuning=True).questions
    assert [candidate.label for candidate in question.candidates] == ["0.5", "2"]
    assert Plan(quick).questions == []


@pytest.mark.parametrize(("processes", "threads"), [(2, 4), (3, 2), (16, 1)])
def test_workers_share_the_cores(monkeypatch, processes, threads):
    made: dict = {}
    monkeypatch.setattr(schedule, "worker_pool", lambda count, **options: made.update(count=count, **options))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "environ", {})
    schedule.pool_of(replace(STUB, preload=("json",)), processes)
    assert made == {"count": processes, "threads": threads, "preload": ("json",)}
    assert os.environ["OMP_NUM_THREADS"] == str(threads)
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "1"


def test_method_tables_literals(tuned):
    tables = method_tables(tuned[1])
    assert list(tables) == ["all pairs", "bad pairs"]
    assert tables["all pairs"].to_dict("split")["data"] == [
        ["start", "25.0 ± 0.0", "", "", ""],
        ["plain", "57.0 ± 9.9", "+32.0 ± 9.9 ↑", "start", "1.00 ± 0.00"],
        ["masked", "82.0 ± 9.9", "+25.0 ± 0.0 ↑", "plain", "0.75 ± 0.00 ↓"],
        ["control", "25.0 ± 0.0", "-32.0 ± 9.9 ↓", "plain", "0.75 ± 0.00 ↓"],
    ]
    bad = tables["bad pairs"]
    assert list(bad) == ["method", "right", "gain", "over", "kept"]
    # The start model has no pairs, so it runs in the main condition only.
    assert bad["method"].tolist() == ["plain", "masked", "control"]
    assert bad["gain"].tolist() == ["-18.0 ± 9.9 ↓", "+25.0 ± 0.0 ↑", "+18.0 ± 9.9 ↑"]


def test_candidate_tables_compare_with_the_unchanged_method(tuned):
    tables = candidate_tables(tuned[1])
    assert {question: list(methods) for question, methods in tables.items()} == {"strength": ["masked"]}
    # No question has several lines, so the table has no column for them.
    assert tables["strength"]["masked"].to_dict("records") == [
        {"trained on": condition, "value": value, "right": right, "change": change, "kept": kept}
        for condition, value, right, change, kept in [
            ("all pairs", "0.5", "69.5 ± 9.9", "-12.5 ± 0.0 ↓", "0.88 ± 0.00 ↑"),
            ("all pairs", "1", "82.0 ± 9.9", "unchanged", "0.75 ± 0.00"),
            ("all pairs", "2", "107.0 ± 9.9", "+25.0 ± 0.0 ↑", "0.50 ± 0.00 ↓"),
            ("bad pairs", "0.5", "19.5 ± 9.9", "-12.5 ± 0.0 ↓", "0.88 ± 0.00 ↑"),
            ("bad pairs", "1", "32.0 ± 9.9", "unchanged", "0.75 ± 0.00"),
            ("bad pairs", "2", "57.0 ± 9.9", "+25.0 ± 0.0 ↑", "0.50 ± 0.00 ↓"),
        ]
    ]


def test_other_tables_literals(tuned):
    assert stage_table(tuned[1]).to_dict("records") == [{"stage": "data", "rows": "14 ± 6"}]
    details = detailed_table(tuned[1])
    assert "lints" not in details.columns  # measured by no method
    assert details["method"].tolist()[-1] == "masked, strength: 2"


def test_results_are_written_as_files_and_page(tuned, tmp_path):
    _, results = tuned
    report = write_results(results, tmp_path / "stub.json", tmp_path / "plots")
    stored = json.loads((tmp_path / "stub.json").read_text())
    assert stored == json.loads(json.dumps(results))
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "methods.png",
        "report.html",
        "strength.png",
    ]
    html = report.read_text()
    assert html.count('<th scope="row">') == len(results["methods"]) + len(results["candidates"])
    assert html.count("data:image/png;base64,") == 2
    page = tmp_path / "page.md"
    begin, end = markers("stub-tuning")
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    write_page(results, "stub-tuning", page, tmp_path / "plots")
    # The stored file has all that the page shows.
    assert page.read_text() == f"before\n{begin}\n{page_text(stored, 'plots')}\n{end}\nafter\n"
    assert "Right is right. Mean over seeds 4 to 5 and 95 % t-interval." in page.read_text()
    shown = re.findall(r"!\[.*?\]\((.*?)\)", page.read_text())
    assert shown == ["plots/strength.png", "plots/methods.png"]
    assert all((tmp_path / path).is_file() for path in shown)
    page.write_text("no markers\n")
    with pytest.raises(ValueError, match="expected the markers <!-- stub-tuning:begin -->"):
        write_page(results, "stub-tuning", page, tmp_path / "plots")
    assert page.read_text() == "no markers\n"


def test_page_shows_the_deciding_columns_and_hides_the_rest(tuned):
    _, results = tuned
    text = page_text({**results, "candidates": []}, "plots")
    open_part, _, hidden = text.partition("<details>\n<summary>all measures</summary>\n\n")
    headings = ["| method   | right      | gain          | over   | kept          |"]
    assert [line for line in open_part.splitlines() if line.startswith("| method")][:1] == headings
    assert "**Trained on bad pairs**" in open_part
    assert "trained on" in hidden
    assert "| stage" in hidden
    assert hidden.endswith("\n\n</details>")
    # The tables of candidates are one block per question.
    blocks = re.findall(r"<summary>(.*?)</summary>", page_text(results, "plots"))
    assert blocks == ["strength: masked", "the methods without a change", "all measures"]


def test_single_seed_has_no_intervals(tmp_path):
    plan = Plan(replace(STUB, settings=StubSettings(seeds=(0,))))
    text = page_text(run(plan, tmp_path), "plots")
    assert "±" not in text
    assert "Mean over seed 0" in text


def test_command_line_refuses_bad_arguments(capsys):
    for arguments, message in (
        (["--processes", "0"], "--processes: expected >= 1, got 0"),
        (["--task", "riddles"], "invalid choice: 'riddles'"),
        (["--question", "delta"], "--question: expected --tune with it, got none"),
        (["--method", "wit"], "--method: expected one of 'no training', "),
        (["--tune", "--method", "dpo"], "--method: expected no --tune with it, got one"),
        (["--tune", "--question", "wit"], "--question: expected one of 'token rewards', "),
    ):
        with pytest.raises(SystemExit):
            command.main(arguments)
        assert message in capsys.readouterr().err


def test_pages_show_the_stored_results():
    page = command.PAGE.read_text(encoding="utf-8")
    runs = [name for task in MODULES for name in (task, f"{task}-tuning")]
    for path in filter(Path.is_file, (command.RESULTS / f"{name}.json" for name in runs)):
        begin, end = markers(path.stem)
        results = json.loads(path.read_text(encoding="utf-8"))
        pictures = pictures_of(command.RESULTS / path.stem, command.PAGE)
        assert f"{begin}\n{page_text(results, pictures)}\n{end}\n" in page, path.name
