"""Variants of PPO's advantages, on literal rollouts."""

from types import SimpleNamespace

import pytest

pytest.importorskip("transformers")

import torch

from benchmarks.experiments.policies.advantages import AgainstRolloutMean, OverKeptTokens


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


def test_advantages_against_the_rollout_mean_are_returns_without_values():
    values = torch.tensor([[1.0, 5.0, -2.0]])
    found = whitened(AgainstRolloutMean, [0.0, -2.0, 4.0], values=values)
    # The returns are 1, 3 and 2: their mean is 2, and their variance 2 / 3.
    assert found[0] == pytest.approx([-(1.5**0.5), 1.5**0.5, 0.0])
