"""Variants of PPO's advantages, on literal rollouts."""

from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

import torch

from benchmarks.experiments.policies.advantages import OverKeptTokens


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
