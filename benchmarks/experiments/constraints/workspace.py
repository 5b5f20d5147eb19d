"""Files of one seed: sampled answers, and the weights of reward models and policies."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.experiments.constraints.answers import Answer, answer_credit
from benchmarks.experiments.constraints.pairs import Pair, make_pairs
from benchmarks.experiments.constraints.prompts import Prompt, draw_prompts
from benchmarks.experiments.constraints.settings import ConstraintsSettings
from benchmarks.experiments.framework.jobs import Job
from benchmarks.experiments.framework.workspace import write_atomically
from benchmarks.experiments.pretrained.workspace import PretrainedWorkspace

Answers = list[tuple[Prompt, list[Answer]]]


class ConstraintsWorkspace(PretrainedWorkspace[ConstraintsSettings]):
    """Workspace whose sampled answers have a fixed place."""

    def prompts(self, purpose: str, count: int, *, held_out: bool = False) -> list[Prompt]:
        """Prompts of this seed, drawn for a purpose."""
        return list(islice(draw_prompts(random.Random(f"{purpose} {self.seed}"), held_out=held_out), count))

    def write_answers(self, name: str, answers: Answers) -> None:
        write_atomically(self._answers_file(name), answers_to_json(answers))

    def answers(self, name: str) -> Answers:
        """Answers of the start model by prompt: `training` or `held-out`."""
        return answers_from_json(self._answers_file(name).read_text())

    def write_policy_answers(self, job: Job, answers: Answers) -> None:
        write_atomically(self.job_folder(job) / "answers.json", answers_to_json(answers))

    def policy_answers(self, job: Job) -> Answers:
        """Answers by prompt that were sampled to measure the policy of a job."""
        return answers_from_json((self.job_folder(job) / "answers.json").read_text())

    def pairs(self, source: str) -> list[Pair]:
        """Pairs of a source: `all` or `adversarial` training pairs, or those `held out`."""
        pairs = make_pairs(self.answers("held-out" if source == "held out" else "training"), self.seed)
        return [pair for pair in pairs if source != "adversarial" or pair.is_adversarial]

    def policy_pairs(self, source: str) -> list[Pair]:
        """Pairs that policies train on."""
        return self.pairs(source)[: self.settings.policy_pairs]

    def measured_pairs(self) -> list[Pair]:
        """Held-out pairs on which the preference accuracy of the policies is measured."""
        return self.pairs("held out")[: self.settings.measured_pairs]

    def rows(self, pairs: list[Pair]) -> list[dict[str, Any]]:
        """Pairs as rows for the trainers."""
        return [pair.row(self.tokenizer) for pair in pairs]

    def training_rows(self, source: str) -> list[dict[str, Any]]:
        return self.rows(self.policy_pairs(source))

    def held_out_rows(self) -> list[dict[str, Any]]:
        return self.rows(self.measured_pairs())

    def token_credit(self, ids: Sequence[int]) -> list[int]:
        return answer_credit(self.tokenizer, ids)

    def _answers_file(self, name: str) -> Path:
        return self.folder / f"{name}-answers.json"


def answers_to_json(answers: Answers) -> str:
    return json.dumps(
        [{"prompt": asdict(prompt), "answers": [asdict(one) for one in found]} for prompt, found in answers]
    )


def answers_from_json(text: str) -> Answers:
    return [
        (Prompt(**row["prompt"]), [Answer(**{**one, "ids": tuple(one["ids"])}) for one in row["answers"]])
        for row in json.loads(text)
    ]
