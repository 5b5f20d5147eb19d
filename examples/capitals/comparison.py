"""DPO against ASR-DPO: one run per seed, in stages, and the estimates over all runs."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed

import segkernel
from examples.capitals.answers import Question, answer_accuracy, draw_questions
from examples.capitals.pairs import Pair, sample_pairs
from examples.capitals.task import make_tokenizer, prompt_text
from examples.capitals.training import (
    Settings,
    load_policy,
    train_and_save,
    train_reward_model,
    train_start,
    trainer_options,
)
from examples.common.estimates import Estimate, difference, estimate
from segkernel.training import ASRDPOConfig, ASRDPOTrainer, DPOConfig, DPOTrainer
from segkernel.training.models import load_scoring_model
from segkernel.training.report import Example

START, DPO, ASR_DPO = "start model", "DPO", "ASR-DPO"
SOURCES = ALL, ADVERSARIAL = "all pairs", "adversarial pairs"
PARTS, MALFORMED = "parts right", "malformed"
CURVE_POINTS = 5
Log = Mapping[str, Any]
Logs = Mapping[tuple[str, str], list[Log]]


@dataclass
class Run:
    """Stages of one seed. Each stage returns the run itself, since it may execute in another process.

    `folder` gets the pairs and the models. `logs` maps (method, source of its pairs) to the accuracy at several steps.
    """

    folder: Path
    settings: Settings
    tokenizer: PreTrainedTokenizerBase = field(default_factory=make_tokenizer)
    pairs: list[Pair] = field(default_factory=list)
    held_out: list[Pair] = field(default_factory=list)
    reward_accuracy: float = 0.0
    logs: dict[tuple[str, str], list[Log]] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)

    def train_start(self) -> Run:
        train_start(self.folder / "start", self.settings, self.tokenizer)
        return self

    def make_pairs(self) -> Run:
        """Sample and rank pairs for training and held-out pairs."""
        settings, start = self.settings, load_policy(self.folder / "start")
        first = 1000 * settings.seed
        self.pairs, self.held_out = (
            sample_pairs(start, self.tokenizer, prompts, parts=settings.parts, seed=seed)
            for prompts, seed in ((settings.prompts, first + 1), (settings.held_out_prompts, first + 2))
        )
        write_preferences(self.folder / "preferences.jsonl", self.pairs)
        return self

    def policy_pairs(self, source: str) -> list[Pair]:
        """Pairs that policies train on: the first `settings.policy_pairs` of all, or the adversarial ones."""
        if source == ALL:
            return self.pairs[: self.settings.policy_pairs]
        return [pair for pair in self.pairs if pair.is_adversarial]

    def train_reward_model(self) -> Run:
        trainer = train_reward_model(
            self.folder / "reward",
            self.folder / "start",
            self.settings,
            self.tokenizer,
            self.pairs,
            self.held_out,
        )
        self.reward_accuracy = trainer.evaluate()["eval_accuracy"]
        return self

    def train_policies(self, source: str) -> Run:
        """Train DPO and ASR-DPO on the pairs of one source."""
        settings = self.settings
        options = {
            "beta": settings.beta,
            "rejected_weight": settings.rejected_weight,
            **trainer_options(
                settings, steps=settings.policy_steps, batch_size=64, learning_rate=settings.learning_rate
            ),
        }
        rows = [pair.row(self.tokenizer) for pair in self.policy_pairs(source)]
        questions = draw_questions(settings.seed, settings.held_out_prompts, settings.parts)
        for method in (DPO, ASR_DPO):
            set_seed(settings.seed)
            policy = load_policy(self.folder / "start")
            options["output_dir"] = str(self.folder / f"{method} on {source}".lower().replace(" ", "-"))
            trainer: DPOTrainer
            if method == DPO:
                config = DPOConfig(**options)
                trainer = DPOTrainer(policy, config, rows, processing_class=self.tokenizer)
            else:
                config = ASRDPOConfig(**options)
                scorer = load_scoring_model(str(self.folder / "reward"), self.tokenizer)
                trainer = ASRDPOTrainer(policy, config, rows, processing_class=self.tokenizer, reward_model=scorer)
            curve = AccuracyCurve(self.tokenizer, questions, every=max(1, settings.policy_steps // CURVE_POINTS))
            trainer.add_callback(curve)
            train_and_save(trainer)
            self.logs[method, source] = curve.log
            if source == ADVERSARIAL:
                self.examples = trainer.report_examples()
        return self


class AccuracyCurve(TrainerCallback):
    """Accuracy of greedy answers, before training, every few steps and after the last one."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], *, every: int) -> None:
        self.tokenizer, self.questions, self.every = tokenizer, questions, every
        self.log: list[Log] = []

    def measure(self, step: int, model: PreTrainedModel) -> None:
        found = answer_accuracy(model, self.tokenizer, self.questions)
        self.log.append({"step": step, PARTS: found.parts_right, MALFORMED: found.malformed})

    def on_train_begin(self, args: Any, state: Any, control: Any, **inputs: Any) -> None:
        self.measure(0, inputs["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **inputs: Any) -> None:
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.measure(state.global_step, inputs["model"])


def write_preferences(path: Path, pairs: Sequence[Pair]) -> None:
    """Write pairs as JSONL, the input format of `segkernel train` and `segkernel inspect`."""
    rows = [{"prompt": prompt_text(p.countries), "chosen": p.chosen, "rejected": p.rejected} for p in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_figures(path: Path, runs: Sequence[Run]) -> None:
    """Write versions, settings and every measured accuracy of every run as JSON; `read_logs` reads the accuracies."""
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "segkernel": segkernel.__version__,
    }
    figures = [
        {
            "settings": asdict(run.settings),
            "reward_accuracy": run.reward_accuracy,
            "pairs": {"sampled": len(run.pairs)} | {source: len(run.policy_pairs(source)) for source in SOURCES},
            "logs": [
                {"method": method, "source": source, "accuracy": log} for (method, source), log in run.logs.items()
            ],
        }
        for run in runs
    ]
    path.write_text(json.dumps({"versions": versions, "runs": figures}, indent=1) + "\n", encoding="utf-8")


def read_logs(path: Path) -> list[Logs]:
    """Accuracies of a file of `write_figures`, one item per run."""
    figures = json.loads(path.read_text(encoding="utf-8"))
    return [{(log["method"], log["source"]): log["accuracy"] for log in run["logs"]} for run in figures["runs"]]


def estimates(runs: Sequence[Logs]) -> pd.DataFrame:
    """Final accuracies over the runs: rows start model, DPO, ASR-DPO; columns (source, measure)."""

    def cell(method: str, source: str, measure: str) -> Estimate:
        first_or_last = 0 if method == START else -1
        return estimate([run[DPO if method == START else method, source][first_or_last][measure] for run in runs])

    columns = pd.MultiIndex.from_product([SOURCES, (PARTS, MALFORMED)])
    methods = (START, DPO, ASR_DPO)
    return pd.DataFrame([[cell(method, *column) for column in columns] for method in methods], methods, columns)


def gains(runs: Sequence[Logs]) -> dict[str, Estimate]:
    """By source of the pairs: parts right of ASR-DPO minus those of DPO, paired by run."""
    return {
        source: difference(*([run[method, source][-1][PARTS] for run in runs] for method in (ASR_DPO, DPO)))
        for source in (ADVERSARIAL, ALL)
    }


def conclusion(gain: Mapping[str, Estimate]) -> str:
    """The comparison in one sentence, whichever method is ahead.

    Example:
        >>> print(conclusion({"adversarial pairs": Estimate(0.7, 0.1), "all pairs": Estimate(-0.01, 0.02)}))
        ASR-DPO against DPO: 70.0 ± 10.0 points more parts right after adversarial pairs, 1.0 ± 2.0 points fewer parts right (not significant) after all pairs.
    """  # noqa: E501
    single = any(value.half_width is None for value in gain.values())
    changes = [f"{_change(value)} after {source}" for source, value in gain.items()]
    return f"{ASR_DPO} against {DPO}{', one run without intervals' if single else ''}: {', '.join(changes)}."


def _change(value: Estimate) -> str:
    points = Estimate(abs(value.mean), value.half_width).percent()
    if points.startswith("0.0"):
        return "no difference" if value.half_width is None else f"no difference ({points} points)"
    doubt = " (not significant)" if value.half_width is not None and not value.sign else ""
    return f"{points} points {'fewer' if value.mean < 0 else 'more'} parts right{doubt}"


def curves(runs: Sequence[Logs]) -> dict[str, list[Log]]:
    """Mean accuracy over the runs at every measured step, by method and source, in percent."""
    found = {}
    for source in SOURCES:
        for method in (DPO, ASR_DPO):
            logs = pd.concat([pd.DataFrame(run[method, source]) for run in runs])
            means = 100 * logs.groupby("step").mean()
            names = {PARTS: "parts right, %", MALFORMED: "malformed answers, %"}
            found[f"{method}, {source}"] = means.rename(columns=names).reset_index().to_dict("records")
    return found
