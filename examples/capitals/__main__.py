"""Compare DPO and ASR-DPO on the capitals task: `python -m examples.capitals`."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from examples.capitals.comparison import (
    ADVERSARIAL,
    ALL,
    PARTS,
    Run,
    conclusion,
    curves,
    estimates,
    gains,
    write_figures,
)
from examples.capitals.training import Settings
from examples.common.workers import quiet, worker_pool
from segkernel.training.report import write_report

STAGES = 5
TITLE = "DPO against ASR-DPO on preferences that mislead"


FIRST_SEED = 20  # the default settings were chosen on lower seeds


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.capitals", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/capitals"), help="parent of the run's new folder")
    parser.add_argument(
        "--seed",
        type=int,
        default=FIRST_SEED,
        help="seed of the first run (default: %(default)s); the others count up from it",
    )
    parser.add_argument("--runs", type=int, default=4, help="independent runs, for the intervals")
    parser.add_argument("--quick", action="store_true", help="two tiny runs, to see that everything works")
    arguments = parser.parse_args(argv)
    if arguments.runs < 1:
        parser.error(f"--runs: expected >= 1, got {arguments.runs}")
    quiet()
    settings, count = (Settings().quick(), 2) if arguments.quick else (Settings(), arguments.runs)
    processes = 1 if arguments.quick else min(count, os.cpu_count() or 1)
    folder = new_folder(arguments.output)
    seeds = range(arguments.seed, arguments.seed + count)
    runs = run_stages([Run(folder / f"seed-{seed}", replace(settings, seed=seed)) for seed in seeds], processes)
    logs = [run.logs for run in runs]
    table, sentence = estimates(logs), conclusion(gains(logs))
    write_figures(folder / "figures.json", runs)
    report = write_report(
        folder,
        title=TITLE,
        log_history=curves(logs),
        examples=runs[0].examples,
        summary=summary_rows(table),
        description=f"{sentence}\n\n{describe(runs)}",
    )
    console = Console(width=80, highlight=False)
    over = f"means and 95 % t-intervals over {count} runs" if count > 1 else "one run, so no intervals"
    console.print(f"\n{TITLE}\nPercent, on held-out questions; {over}.")
    console.print(console_table(table))
    console.print(sentence, markup=False)
    print(f"\nreport: {report}")
    return 0


def run_stages(runs: Sequence[Run], processes: int) -> Sequence[Run]:
    """Run every stage for all runs, with one line of output per stage."""
    print(f"{len(runs)} independent run{'s' if len(runs) > 1 else ''}, each with its own seed, data and models")
    with worker_pool(processes, preload=["examples.capitals.training"]) if processes > 1 else nullcontext() as pool:
        apply = map if pool is None else pool.map
        with stage(1, "start model: learns to name capitals, with mistakes"):
            runs = list(apply(Run.train_start, runs))
        with stage(2, "preferences: its answers, ranked as wholes") as facts:
            runs = list(apply(Run.make_pairs, runs))
            facts.append(f"{mean(len(run.pairs) for run in runs):.0f} pairs")
        with stage(3, "reward model: learns from these") as facts:
            runs = list(apply(Run.train_reward_model, runs))
            facts.append(f"ranks {100 * mean(run.reward_accuracy for run in runs):.0f} % of new pairs right")
        for number, source in ((4, ALL), (5, ADVERSARIAL)):
            with stage(number, f"DPO and ASR-DPO on {source}") as facts:
                runs = list(apply(Run.train_policies, runs, [source] * len(runs)))
                facts.append(f"{mean(len(run.policy_pairs(source)) for run in runs):.0f} pairs")
    return runs


@contextmanager
def stage(number: int, text: str) -> Iterator[list[str]]:
    """Print a numbered line; when the stage is done, complete it with what was appended and the seconds."""
    print(f"{number}/{STAGES} {text}", end="", flush=True)
    began = time.monotonic()
    facts: list[str] = []
    yield facts
    print("".join(f" ({fact})" for fact in facts) + f", {time.monotonic() - began:.0f} s", flush=True)


def new_folder(output: Path) -> Path:
    """Create the next numbered folder in `output`. Existing folders, those of killed runs included, are not touched.

    Example:
        >>> import tempfile
        >>> output = Path(tempfile.mkdtemp())
        >>> new_folder(output).name, new_folder(output).name
        ('001', '002')
    """
    output.mkdir(parents=True, exist_ok=True)
    number = max((int(path.name) for path in output.iterdir() if path.name.isdigit()), default=0)
    while True:
        number += 1
        try:
            (output / f"{number:03d}").mkdir()
        except FileExistsError:
            continue
        return output / f"{number:03d}"


def console_table(table: pd.DataFrame) -> Table:
    shown = Table(box=box.SIMPLE_HEAD)
    shown.add_column("model")
    for source, measure in table.columns:
        shown.add_column(source.replace(" ", "\n") + f"\n{measure}", justify="right", no_wrap=True)
    for method, row in table.iterrows():
        shown.add_row(str(method), *(value.percent() for value in row))
    return shown


def summary_rows(table: pd.DataFrame) -> list[dict[str, str]]:
    return [
        {"percent": str(method)} | {f"{measure}, {source}": value.percent() for (source, measure), value in row.items()}
        for method, row in table.iterrows()
    ]


def describe(runs: Sequence[Run]) -> str:
    """The task, the training and the intervals, for a reader of the report."""
    settings, count = runs[0].settings, len(runs)
    pairs = {source: f"{mean(len(run.policy_pairs(source)) for run in runs):.0f}" for source in (ALL, ADVERSARIAL)}
    sampled = f"{mean(len(run.pairs) for run in runs):.0f}"
    accuracy = 100 * mean(run.reward_accuracy for run in runs)
    interval = (
        f"Means of {count} independent runs (seeds {settings.seed} to {settings.seed + count - 1}); ± is half of a "
        "95 % t-interval over runs, in which every model and data set was made anew."
        if count > 1
        else f"One run (seed {settings.seed}), so there is no interval."
    )
    return (
        f"The task: name the capitals of {settings.parts} countries. One of them is starred, and a judge who compares "
        "whole answers weighs its part above all the others together, so the preferred answer can be wrong in most of "
        f"its parts. Of {sampled} pairs of sampled answers, the methods train on {pairs[ALL]} (all pairs) or on those "
        f"whose preference contradicts more than half of their parts (adversarial pairs: {pairs[ADVERSARIAL]} on "
        "average).\n\n"
        f"Both methods start from the same model and train for {settings.policy_steps} steps with the same learning "
        f"rate ({settings.learning_rate:g}), beta ({settings.beta:g}) and weight of the rejected answer "
        f"({settings.rejected_weight:g}). DPO trains on whole answers. ASR-DPO trains on the segments whose token "
        "rewards agree with their answer's verdict. These rewards come from a reward model whose score of an answer is "
        "the sum of its tokens' rewards. It learns from all pairs, from preferences between whole "
        f"answers only, and ranks {accuracy:.0f} % of held-out pairs as the judge does.\n\n"
        f"{interval} Accuracy: {PARTS} in greedy answers to {settings.held_out_prompts} held-out questions; a "
        "malformed answer has no right part."
    )


if __name__ == "__main__":
    raise SystemExit(main())
