"""Ten held-out answers of SmolLM2 with their segments and violations, from a stored run."""

from pathlib import Path

from style import HERE, ROOT, save

from benchmarks.experiments.constraints.segmented import draw_answers, read_answers

DATA = ROOT / "benchmarks" / "results" / "experiments" / "smollm2-answers.json"


def draw(folder: Path = HERE) -> Path:
    return save(draw_answers(read_answers(DATA)[:10]), "answers", folder)


if __name__ == "__main__":
    draw()
