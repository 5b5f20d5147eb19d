"""Rewards and advantages of PPO under constraints, on literal answers and rollouts."""

from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

import torch
from transformers import AutoTokenizer

from benchmarks.experiments.constraints.form_penalty import with_form_penalty
from benchmarks.experiments.policies.advantages import OverKeptTokens
from segkernel.training.data.collators import ResponseCollator
from segkernel.training.models.response_tokens import ResponseTokens
from tests.tools.constraints_model import WORDS, write_model


def whitened(trainer_type, advantages, **attributes):
    """Advantages of one row of three tokens after `whiten`, without a trainer's models."""
    trainer = trainer_type.__new__(trainer_type)
    trainer.accelerator = SimpleNamespace(reduce=lambda values, reduction: values)
    for name, values in attributes.items():
        setattr(trainer, name, values)
    return trainer.whiten(torch.tensor([advantages]), torch.tensor(0.0), torch.ones(1, 3, dtype=torch.bool)).tolist()


def test_advantages_over_kept_tokens_ignore_the_others():
    kept = torch.tensor([[True, True, False]])
    assert whitened(OverKeptTokens, [1.0, 3.0, 100.0], kept=kept) == [[-1.0, 1.0, 0.0]]


class Scores(torch.nn.Module):
    """Reward model with the score `t / 10` at position `t`."""

    def forward(self, input_ids, attention_mask, position_ids):
        return SimpleNamespace(logits=(position_ids / 10)[..., None])


@pytest.mark.parametrize("side", ["right", "left"])
def test_penalty_lowers_the_last_score_of_malformed_answers_only(tmp_path, side):
    write_model(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(" ".join(word for word in WORDS if word != "hill,."), add_special_tokens=False)["input_ids"]
    answers = [[*ids[:12], 2], [*ids[:11], 2], ids[:12], ids[:12] * 3 + [2]]  # good; a fragment; cut off; repeated
    batch = ResponseCollator(1, side)([{"prompt_ids": [3, 4], "response_ids": answer} for answer in answers])
    scores = with_form_penalty(Scores(), tokenizer, ResponseTokens((2,), pad_id=1), penalty=5.0)(batch)
    found = [row[kept].tolist() for row, kept in zip(scores, batch["response_mask"], strict=True)]
    ends = [1.4, 1.3 - 5.0, 1.3 - 5.0, 3.8 - 5.0]
    for row, answer, end in zip(found, answers, ends, strict=True):
        assert row == pytest.approx([*(0.2 + 0.1 * index for index in range(len(answer) - 1)), end], abs=1e-5)
