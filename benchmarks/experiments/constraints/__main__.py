"""Write the segments of held-out answers: `python -m benchmarks.experiments.constraints`.

The segments are those that asr-dpo makes in the first condition with the reward model of a finished run. The first
pairs of different prompts are shown, not chosen ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.experiments.__main__ import RESULTS, ROOT
from benchmarks.experiments.constraints.experiment import EXPERIMENT
from benchmarks.experiments.constraints.pairs import Pair
from benchmarks.experiments.constraints.preferences import ASR_DPO
from benchmarks.experiments.constraints.segmented import END, SegmentedAnswer, save_png, write_answers
from benchmarks.experiments.constraints.workspace import ConstraintsWorkspace
from benchmarks.experiments.pretrained.preferences import asr_dpo_trainer
from examples.common.workers import quiet
from segkernel.training.data.columns import SIDES
from segkernel.training.report import write_report
from segkernel.training.report_examples import report_examples

DATA = RESULTS / f"{EXPERIMENT.name}-answers.json"
LEGEND = (
    "Answers of the start model to held-out prompts, cut into segments by the token rewards of the learned reward "
    "model. ASR-DPO trains on the positive segments of chosen answers and the negative segments of rejected ones. "
    "Violations of the constraints are underlined; the reward model has seen none of these marks."
)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experiments.constraints", description=__doc__)
    parser.add_argument("--seed", type=int, default=EXPERIMENT.settings.seeds[0], help="default: %(default)s")
    parser.add_argument("--pairs", type=int, default=10, help="number of pairs (default: %(default)s)")
    parser.add_argument("--input", type=Path, default=ROOT / "runs" / "experiments", help="folder of the experiments")
    parser.add_argument("--output", type=Path, default=DATA, help="default: %(default)s")
    arguments = parser.parse_args(argv)
    if arguments.pairs < 1:
        parser.error(f"--pairs: expected >= 1, got {arguments.pairs}")
    settings: Any = EXPERIMENT.settings
    folder = settings.folder(arguments.input / EXPERIMENT.name)
    work = ConstraintsWorkspace(settings, folder, arguments.seed)
    if work.result(ASR_DPO.job(work.seed, EXPERIMENT.conditions[EXPERIMENT.main_condition]).need("reward")) is None:
        parser.error(f"--seed: expected a seed with a trained reward model in {folder}, got {arguments.seed}")
    quiet(torch.get_num_threads())
    answers = segmented_answers(work, arguments.pairs)
    write_answers(arguments.output, answers)
    print(f"segments of {len(answers)} answers: {arguments.output}")
    print(f"report: {write_page(answers, arguments.output.with_suffix(''))}")
    return 0


def segmented_answers(work: ConstraintsWorkspace, count: int) -> list[SegmentedAnswer]:
    """Both answers of the first held-out pair of each of the first prompts."""
    job = ASR_DPO.job(work.seed, EXPERIMENT.conditions[EXPERIMENT.main_condition])
    pairs = of_different_prompts(work.pairs("held out"))[:count]
    trainer = asr_dpo_trainer(work, job, work.rows(pairs))
    rows: Any = trainer.eval_dataset
    examples = report_examples(rows, trainer.thresholds, work.tokenizer, trainer.end_ids)
    found = []
    for index, example in enumerate(examples):
        pair, side = pairs[index // len(SIDES)], SIDES[index % len(SIDES)]
        answer = {"chosen": pair.chosen, "rejected": pair.rejected}[side]
        tokens = [*example.tokens[:-1], END] if answer.ended else example.tokens
        found.append(SegmentedAnswer(pair.prompt.request, side, tuple(tokens), tuple(example.spans())))
    return found


def of_different_prompts(pairs: Sequence[Pair]) -> list[Pair]:
    """The first pair of every prompt."""
    first: dict[Any, Pair] = {}
    for pair in pairs:
        first.setdefault(pair.prompt, pair)
    return list(first.values())


def write_page(answers: Sequence[SegmentedAnswer], folder: Path) -> Path:
    """Write a report with the picture of the answers."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / "answers.png"
    save_png(answers, picture)
    title = "Segments on held-out answers"
    return write_report(folder, title=title, description=LEGEND, images=[(title, picture)])


if __name__ == "__main__":
    raise SystemExit(main())
