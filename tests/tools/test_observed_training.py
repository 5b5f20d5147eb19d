"""Rows of observed batches, on literal batches."""

import pytest

pytest.importorskip("transformers")

import torch

from benchmarks.experiments.policies.credit import TrainedResponse
from benchmarks.experiments.policies.rollouts import (
    observe_selection,
    response_rows,
    row_tokens,
    signs_by_tokens,
    trained_responses,
    verdict_signs,
)

# The last position of the second row is padding, under which the policy mask must not count.
ROLLOUT = {
    "input_ids": torch.tensor([[5, 6, 7, 8], [9, 10, 11, 99]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    "response_mask": torch.tensor([[False, False, True, True], [False, True, True, False]]),
    "policy_mask": torch.tensor([[True, False, False, True], [True, True, False, True]]),
    "sequence_rewards": torch.tensor([2.0, -1.0]),
}


def test_rows_of_a_rollout_leave_out_padding_and_prompts():
    assert list(response_rows(ROLLOUT, "policy_mask")) == [
        ([5, 6], [7, 8], [False, True]),
        ([9], [10, 11], [True, False]),
    ]
    assert row_tokens(ROLLOUT) == [(5, 6, 7, 8), (9, 10, 11)]


def test_signs_compare_a_response_with_the_mean_of_its_rollout():
    assert verdict_signs(ROLLOUT) == [1, -1]
    assert signs_by_tokens([ROLLOUT]) == {(5, 6, 7, 8): 1, (9, 10, 11): -1}


def test_trained_responses_have_mask_credit_and_sign():
    odd = trained_responses(ROLLOUT, "policy_mask", [1, -1], lambda ids: [2 * (token % 2) - 1 for token in ids])
    assert odd == [TrainedResponse([False, True], [1, -1], 1), TrainedResponse([True, False], [-1, 1], -1)]


def test_selection_on_pairs_is_observed_row_by_row():
    class Trainer:
        def selected(self, logits, batch):
            return batch["response_mask"] & (batch["input_ids"] > 7)

    trainer, names = Trainer(), ("input_ids", "attention_mask", "response_mask")
    seen = observe_selection(trainer, "selected")
    pair = {name: ROLLOUT[name][None] for name in names}  # [1, 2, T]
    kept = trainer.selected(torch.zeros(1, 2, 4, 16), pair)
    assert kept.shape == (1, 2, 4)
    assert [rows for _, _, rows in response_rows(seen[0], "selected")] == [[False, True], [True, True]]
