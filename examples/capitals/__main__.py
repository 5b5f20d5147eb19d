"""`python -m examples.capitals`: run the main job, print the comparison, write the report."""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from examples.capitals.measure import ADVERSARIAL, COLUMNS, measure
from examples.capitals.pipeline import Policies, Settings, run_stages, say
from segkernel.training.report import write_report


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.capitals", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="each run makes a new folder in here")
    parser.add_argument("--seed", type=int, default=0, help="of data, models and training")
    parser.add_argument("--quick", action="store_true", help="seconds, to see that everything works")
    arguments = parser.parse_args(argv)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    logging.set_verbosity_error()  # a reward model's new head is always "newly initialized"
    torch.set_num_threads(1)  # a model this small gains nothing from a second one
    settings = replace(Settings(), seed=arguments.seed)
    if arguments.quick:
        settings = settings.quick()
    began = time.monotonic()
    folder = new_folder(arguments.output)
    policies = run_stages(folder, settings)
    say("measuring")
    rows = measure(policies, settings)
    description = describe(policies, settings)
    report = write_report(
        folder,
        title="Segment-masked DPO against plain DPO",
        log_history={
            "DPO": policies.dpo_trainer.state.log_history,
            "segment-masked DPO": policies.segment_trainer.state.log_history,
        },
        examples=policies.segment_trainer.report_examples(),
        summary=rows,
        description=description,
    )
    console = Console()
    console.print()
    console.print(table_of(rows))
    console.print(f"\n{description}\n", markup=False, highlight=False)
    console.print(f"{time.monotonic() - began:.0f} s", highlight=False)
    print(f"report: {report}")
    return 0


def new_folder(output: Path) -> Path:
    """The next numbered folder in `output`: no run touches another's files, finished or killed.

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


def table_of(rows: Sequence[dict[str, str]]) -> Table:
    table = Table(title="Segment-masked DPO against plain DPO")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "measure" else "right")
    for row in rows:
        table.add_row(*row.values())
    return table


def describe(policies: Policies, settings: Settings) -> str:
    return (
        f"The task: name the capitals of {settings.parts} countries. The start model has learnt from answers with "
        f"mistakes. Both policies train for {settings.policy_steps} steps on the same "
        f"{len(policies.dpo_trainer.train_dataset)} preferences, at the same learning rate "
        f"{settings.learning_rate:g} and "
        f"beta {settings.beta:g}; segment-masked DPO trains only on the segments that a reward model, learnt from "
        f"those same preferences (held-out accuracy {100 * policies.reward_accuracy:.1f} %), finds in favour of their "
        "answer's verdict.\n\n"
        "Brackets hold 95 % intervals for the share of questions. A pair is adversarial when at least "
        f"{100 * ADVERSARIAL:.0f} % of its parts contradict its preference: wrong ones in the preferred answer, right "
        f"ones in the other. Seed {settings.seed}."
    )


if __name__ == "__main__":
    raise SystemExit(main())
